//! More requests than the server behind the gateway can carry out.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::daemon_process::Daemon;
use crate::http::open_loop::{OpenLoop, TimedResponse};
use crate::report::{percentiles, row, title};

const PORT: u16 = 19_160;
/// At this nice value a process gets a twentieth of the time of one at 0.
const NICE: i32 = 13;
/// Requests a second, more than it can answer, from [`AT_ONCE`] clients.
const STARVED_RATE: f64 = 20_000.0;
const AT_ONCE: usize = 64;
const STARVED_TIME: Duration = Duration::from_secs(15);
/// What the server does at a time, each for [`SLOW`](crate::gateway::back_end) and what a timer is
/// late.
const AT_A_TIME: usize = 8;
/// Enough clients that one is free whenever a request is due.
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
        let pace = OpenLoop::connect(gateway.address, "GET /slow HTTP/1.1\r\nHost: mesh\r\n\r\n", CLIENTS).await;
        OverloadSample::of(&pace.run(rate, time).await)
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

/// As [`overload`], with a twentieth of a core for the gateway, beside a process that uses the rest
/// of it.
pub(crate) async fn starved(name: &str, gateway: &Daemon) {
    gateway.be_nice(NICE);
    let _spinner = Daemon::spinner();
    let load = async |clients: usize, rate: f64| {
        let pace = OpenLoop::connect(gateway.address, "GET /echo HTTP/1.1\r\nHost: mesh\r\n\r\n", clients).await;
        // Those who come are let in first: that is not what is asked about.
        pace.run(1000.0, Duration::from_secs(4)).await;
        let before = gateway.cpu();
        let answers = pace.run_and_give_up(rate, STARVED_TIME).await;
        (answers, gateway.cpu() - before)
    };
    // As much as it can do: few clients, who ask again at once.
    let (answers, cpu) = load(AT_ONCE, STARVED_RATE).await;
    let peak = answers.iter().filter(|answer| answer.is_right).count() as f64 / STARVED_TIME.as_secs_f64();
    let text = |answers: &[TimedResponse], cpu: Duration| {
        let waited = |is_right: bool| {
            let of = answers.iter().filter(|answer| answer.is_right == is_right);
            let mut of: Vec<_> = of.map(|answer| answer.waited).collect();
            let (p50, p99) = if of.is_empty() { Default::default() } else { percentiles(&mut of) };
            (of.len() as f64 / STARVED_TIME.as_secs_f64(), p50.as_secs_f64(), p99.as_secs_f64())
        };
        let ((right, p50, p99), (declined, half, _)) = (waited(true), waited(false));
        let share = 100.0 * right / peak;
        let cpu = 100.0 * cpu.as_secs_f64() / STARVED_TIME.as_secs_f64();
        format!(
            "{right:.0}/s answered ({share:.0} %), p50 {p50:.2} p99 {p99:.2} s; {declined:.0}/s declined, half of them within {half:.2} s; {cpu:.1} % of a core"
        )
    };
    row(&format!("{name}, 64 who ask at once"), &text(&answers, cpu));
    for times in [2.0, 10.0] {
        let (answers, cpu) = load(CLIENTS, peak * times).await;
        row(&format!("{name}, 4000, {times} × as many"), &text(&answers, cpu));
    }
}

/// What became of the requests.
struct OverloadSample {
    answered: usize,
    p99: Duration,
    has_declined: bool,
    /// How long half of those took that were declined.
    declined: Duration,
}

impl OverloadSample {
    fn of(answers: &[TimedResponse]) -> Self {
        let times = |is_right: bool| -> Vec<Duration> {
            answers.iter().filter(|answer| answer.is_right == is_right).map(|answer| answer.took).collect()
        };
        let (mut right, mut declined) = (times(true), times(false));
        let has_declined = !declined.is_empty();
        let half = if has_declined { percentiles(&mut declined).0 } else { Duration::ZERO };
        Self { answered: right.len(), p99: percentiles(&mut right).1, has_declined, declined: half }
    }
}
