//! More requests than the server behind the gateway can carry out.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::daemon_process::Daemon;
use crate::pace::{Answered, Pace};
use crate::scenes::{percentiles, row, title};

const PORT: u16 = 19_160;
/// What the server does at a time, each for [`SLOW`](crate::door) and what a timer is late.
const AT_A_TIME: usize = 8;
/// So many that one is free whenever a request is due.
const CLIENTS: usize = 4000;
const TIME: Duration = Duration::from_secs(2);

pub(crate) async fn overload(program: &str, back_end: SocketAddr) {
    title(
        "a server that does 8 requests at a time, 5 ms each, is asked for more than that; others wait for up to 100 ms",
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    let text = format!(
        "listen = \"127.0.0.1:{PORT}\"\nworkers = 1\nadmin = \"off\"\n[[route]]\nprefix = \"/\"\nservers = [\"{back_end}\"]\n\
         max_connections = {AT_A_TIME}\nqueue_timeout = \"100ms\"\n"
    );
    std::fs::write(&file, text).unwrap();
    let arguments = ["--config", file.to_str().unwrap(), "--log-level", "error"];
    let gateway = Daemon::other(program, &arguments, PORT).await.expect("build it first");
    let load = async |rate: f64, time: Duration| {
        let pace = Pace::connect(gateway.address, "GET /slow HTTP/1.1\r\nHost: door\r\n\r\n", CLIENTS).await;
        Seen::of(&pace.run(rate, time).await)
    };
    // As much as it can do, found by asking for a little more than that could be.
    let most = AT_A_TIME as f64 / 0.005;
    let peak = load(most, TIME).await;
    let capacity = peak.answered as f64 / TIME.as_secs_f64();
    row("as much as it can do", &format!("{capacity:.0}/s, p99 {:.0} ms", peak.p99.as_secs_f64() * 1e3));
    for times in [2.0, 5.0, 10.0] {
        let seen = load(capacity * times, TIME).await;
        let share = 100.0 * seen.answered as f64 / peak.answered as f64;
        let ratio = seen.p99.as_secs_f64() / peak.p99.as_secs_f64();
        let text = format!(
            "{share:.0} % of that is answered, p99 {:.0} ms ({ratio:.2} ×); the others are declined, half of them within {:.1} ms",
            seen.p99.as_secs_f64() * 1e3,
            seen.declined.as_secs_f64() * 1e3,
        );
        row(&format!("{times} × as many"), &text);
    }
    let ended = Instant::now();
    let well = Duration::from_millis(250);
    while load(capacity / 2.0, well).await.has_declined {}
    let took = ended.elapsed().saturating_sub(well);
    row("half as many after that", &format!("nothing is declined after {:.1} s", took.as_secs_f64()));
}

/// What became of the requests.
struct Seen {
    answered: usize,
    p99: Duration,
    has_declined: bool,
    /// How long half of those took that were declined.
    declined: Duration,
}

impl Seen {
    fn of(answers: &[Answered]) -> Self {
        let times = |is_right: bool| -> Vec<Duration> {
            answers.iter().filter(|answer| answer.is_right == is_right).map(|answer| answer.took).collect()
        };
        let (mut right, mut declined) = (times(true), times(false));
        let has_declined = !declined.is_empty();
        let half = if has_declined { percentiles(&mut declined).0 } else { Duration::ZERO };
        Self { answered: right.len(), p99: percentiles(&mut right).1, has_declined, declined: half }
    }
}
