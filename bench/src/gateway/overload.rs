//! More requests than the server behind the gateway can handle, and more than the gateway itself
//! can.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::daemon_process::Daemon;
use crate::http::open_loop::{OpenLoop, TimedResponse};
use crate::report::{percentiles, row, title};

/// A port that no other process of this measurement uses.
const PORT: u16 = 19_160;
/// A process with this nice value gets a twentieth of the time of one with 0.
const NICE: i32 = 13;
/// Requests a second: more than a starved server can answer.
const STARVED_RATE: f64 = 20_000.0;
/// Clients that find out the capacity of a starved server.
const STARVED_CLIENTS: usize = 64;
const STARVED_TIME: Duration = Duration::from_secs(15);
/// Requests that the server handles at a time. Each takes [`SLOW_TIME`](crate::gateway::back_end),
/// and as long as a timer is late.
const SERVER_CONCURRENCY: usize = 8;
/// Clients: enough that one is free whenever a request is due.
const CLIENTS: usize = 4000;
const ROUND_TIME: Duration = Duration::from_secs(2);

/// Overloads the server behind the gateway.
pub(crate) async fn overload(program: &str, back_end: SocketAddr) {
    title(
        "a server handles 8 requests at a time, 5 ms each, and gets more; a request waits in the gateway for up to 100 ms",
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    let text = format!(
        "listen = \"127.0.0.1:{PORT}\"\nworkers = 1\nadmin = \"off\"\n[[route]]\nprefix = \"/\"\nservers = [\"{back_end}\"]\n\
         max_connections = {SERVER_CONCURRENCY}\nqueue_timeout = \"100ms\"\n"
    );
    std::fs::write(&file, text).unwrap();
    let arguments = ["--config", file.to_str().unwrap(), "--log-level", "error"];
    let gateway = Daemon::other(program, &arguments, PORT).await.expect("build it first");
    let load = async |rate: f64, time: Duration| {
        let pace = OpenLoop::connect(gateway.address, "GET /slow HTTP/1.1\r\nHost: mesh\r\n\r\n", CLIENTS).await;
        OverloadSample::of(&pace.run(rate, time).await)
    };
    // Measures the capacity: sends a little more than the server can answer.
    let ideal = SERVER_CONCURRENCY as f64 / 0.005;
    let peak = load(ideal, ROUND_TIME).await;
    let capacity = peak.answered as f64 / ROUND_TIME.as_secs_f64();
    row("at its capacity", &format!("{capacity:.0}/s, p99 {:.0} ms", peak.p99.as_secs_f64() * 1e3));
    for times in [2.0, 5.0, 10.0] {
        let seen = load(capacity * times, ROUND_TIME).await;
        let share = 100.0 * seen.answered as f64 / peak.answered as f64;
        let ratio = seen.p99.as_secs_f64() / peak.p99.as_secs_f64();
        let text = format!(
            "{share:.0} % of its capacity is answered, p99 {:.0} ms ({ratio:.2} ×); the others are declined, half of them within {:.1} ms",
            seen.p99.as_secs_f64() * 1e3,
            seen.declined.as_secs_f64() * 1e3,
        );
        row(&format!("{times} × its capacity"), &text);
    }
    let ended = Instant::now();
    let well = Duration::from_millis(250);
    while load(capacity / 2.0, well).await.has_declined {}
    let took = ended.elapsed().saturating_sub(well);
    row("half its capacity, after that", &format!("after {:.1} s no request is declined", took.as_secs_f64()));
}

/// Overloads a gateway or proxy that has a twentieth of a core: another process uses the rest.
pub(crate) async fn starved(name: &str, gateway: &Daemon) {
    gateway.be_nice(NICE);
    let _spinner = Daemon::spinner();
    let load = async |clients: usize, rate: f64| {
        let pace = OpenLoop::connect(gateway.address, "GET /echo HTTP/1.1\r\nHost: mesh\r\n\r\n", clients).await;
        // All connections are accepted first; that is not measured.
        pace.run(1000.0, Duration::from_secs(4)).await;
        let before = gateway.cpu();
        let answers = pace.run_and_give_up(rate, STARVED_TIME).await;
        (answers, gateway.cpu() - before)
    };
    // Measures the capacity: few clients, which send the next request at once.
    let (answers, cpu) = load(STARVED_CLIENTS, STARVED_RATE).await;
    let peak = answers.iter().filter(|answer| answer.is_right).count() as f64 / STARVED_TIME.as_secs_f64();
    let text = |answers: &[TimedResponse], cpu: Duration| {
        let waited = |is_right: bool| {
            let answers = answers.iter().filter(|answer| answer.is_right == is_right);
            let mut waited: Vec<_> = answers.map(|answer| answer.waited).collect();
            let (p50, p99) = if waited.is_empty() { Default::default() } else { percentiles(&mut waited) };
            (waited.len() as f64 / STARVED_TIME.as_secs_f64(), p50.as_secs_f64(), p99.as_secs_f64())
        };
        let ((right, p50, p99), (declined, half, _)) = (waited(true), waited(false));
        let share = 100.0 * right / peak;
        let cpu = 100.0 * cpu.as_secs_f64() / STARVED_TIME.as_secs_f64();
        format!(
            "{right:.0}/s answered ({share:.0} %), p50 {p50:.2} p99 {p99:.2} s; {declined:.0}/s declined, half of them within {half:.2} s; {cpu:.1} % of a core"
        )
    };
    row(&format!("{name}, 64 clients"), &text(&answers, cpu));
    for times in [2.0, 10.0] {
        let (answers, cpu) = load(CLIENTS, peak * times).await;
        row(&format!("{name}, 4000 clients, {times} × as much"), &text(&answers, cpu));
    }
}

/// The outcomes of the requests of one round.
struct OverloadSample {
    answered: usize,
    p99: Duration,
    has_declined: bool,
    /// The median time of the declined requests.
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
