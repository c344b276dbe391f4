//! A task that always has something to do leaves its thread to others after a time slice.
//!
//! These tests have no clock. Time is paused, and passes only while the host under test works: by
//! the same amount for each step, such as a read. Another task of the thread counts how much time
//! passes between two of its turns.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use net::{Acceptor, Host, Network, Socket, TimeSlice, VirtualNet};
use node_sdk::{Node, ServiceError};
use serde_json::json;
use tests::patient;
use tokio::task::{AbortHandle, yield_now};
use tokio::time::{Instant, advance, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// How long a step takes: a few of them make a time slice.
const STEP: Duration = Duration::from_micros(300);
/// The longest time that others wait: a time slice, which reads its clock only now and then.
const MAX_WAIT: Duration = TimeSlice::LENGTH.saturating_mul(2).saturating_add(STEP);
/// Steps of a test: what is sent for them is far more than a task may do in one go.
const STEPS: usize = 300;
/// How often the other task runs without a step before the test gives up.
const IDLE_TURNS: usize = 100_000;

/// Counts steps, and lets time pass for each.
#[derive(Clone, Default)]
struct StepClock(Arc<AtomicUsize>);

impl StepClock {
    fn step(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
        // The first poll moves the clock; what would follow is a turn of others.
        let _ = pin!(advance(STEP)).poll(&mut Context::from_waker(Waker::noop()));
    }

    /// Makes a host step at each read and write.
    fn at(&self, host: &Host) {
        let clock = self.clone();
        host.set_work(move || clock.step());
    }

    /// Makes each line of this thread's log a step, until the guards are dropped.
    fn at_log_lines(&self) -> impl Sized + use<> {
        let log = || {
            let clock = self.clone();
            let lines = tracing_subscriber::fmt().with_max_level(LevelFilter::DEBUG);
            lines.with_writer(move || LineCounter(clock.clone())).set_default()
        };
        // While a process has one log only, the thread that meets a line first decides for all
        // threads whether it is written: with two, they are asked.
        [log(), log()]
    }

    /// Takes turns with the tasks of the test, and checks that it never waits long for one.
    #[track_caller]
    fn check(&self) -> impl Future<Output = ()> {
        let location = std::panic::Location::caller();
        async move {
            let (begun, mut seen, mut idle) = (self.steps(), self.steps(), 0);
            let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
            while seen < begun + STEPS {
                yield_now().await;
                longest = longest.max(last.elapsed());
                last = Instant::now();
                idle = if self.steps() == seen { idle + 1 } else { 0 };
                assert!(idle < IDLE_TURNS, "nothing is done after {} steps ({location})", seen - begun);
                seen = self.steps();
            }
            assert!(longest <= MAX_WAIT, "others waited for {longest:?} ({location})");
        }
    }

    fn steps(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A task that ends with the test's scene.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Writes the same bytes again and again, in pieces that are read one by one, and discards what
/// comes back.
fn flood(socket: Socket, bytes: impl Into<Vec<u8>>, piece: usize) -> Task {
    let bytes = bytes.into();
    let task = async move {
        for part in bytes.chunks(piece).cycle() {
            let mut left = part;
            while !left.is_empty() {
                while socket.try_read(&mut [0; 16 * 1024]).is_ok_and(|bytes| bytes > 0) {}
                match socket.try_write(left) {
                    Ok(written) => left = &left[written..],
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        let interest = tokio::io::Interest::READABLE | tokio::io::Interest::WRITABLE;
                        socket.ready(interest).await.unwrap();
                    }
                    Err(_gone) => return,
                }
            }
        }
    };
    Task(tokio::spawn(task).abort_handle())
}

/// A Distributor on a host of its own.
struct DistributorScene {
    net: VirtualNet,
    host: Host,
    clock: StepClock,
    _stop: DropGuard,
}

impl DistributorScene {
    fn start() -> Self {
        let net = VirtualNet::default();
        let (host, stop) = (net.host(), CancellationToken::new());
        let listener = Network::Virtual(host.clone()).bind(([0, 0, 0, 0], 1).into()).unwrap();
        let config =
            distributor::Config { packet_burst: 1_000_000, update_burst: 1_000_000, pings_per_second: 1, ..patient() };
        tokio::spawn(distributor::serve(vec![listener], config, stop.clone()));
        Self { net, host, clock: StepClock::default(), _stop: stop.drop_guard() }
    }

    /// A connection from a new host to a port of another one.
    async fn connect(&self, to: &Host, port: u16) -> Socket {
        Network::Virtual(self.net.host()).connect_to((to.address(), port).into()).await.unwrap()
    }

    /// A connection to the Distributor.
    async fn peer(&self) -> Socket {
        self.connect(&self.host, 1).await
    }

    /// A node on a host of its own.
    async fn node(&self, host: &Host, node: node_sdk::NodeBuilder) -> Node {
        let distributor = format!("{}:1", self.host.address());
        node.network(Network::Virtual(host.clone()))
            .listen("127.0.0.1:2")
            .distributor(distributor)
            .start()
            .await
            .unwrap()
    }
}

fn send(socket: &Socket, packet: impl std::fmt::Display) {
    let packet = format!("{packet}¶");
    assert_eq!(socket.try_write(packet.as_bytes()).unwrap(), packet.len());
}

fn registration(name: &str, port: u16, urls: &[&str]) -> serde_json::Value {
    let params = json!({ "port": port, "name": name, "urls": urls, "$": { "v": 2, "id": name } });
    json!({ "uri": "/distributes", "method": "POST", "key": 0, "params": params, "$": {} })
}

#[tokio::test(start_paused = true)]
async fn fr14_a_peer_of_the_distributor_that_never_pauses_leaves_time_for_others() {
    // A packet in many small pieces: each read is a step.
    let scene = DistributorScene::start();
    let packet = format!(r#"{{"uri":"/x","method":"GET","params":"{}"}}¶"#, "x".repeat(60_000));
    let _flood = flood(scene.peer().await, packet, 100);
    scene.clock.at(&scene.host);
    scene.clock.check().await;
}

#[tokio::test(start_paused = true)]
async fn fr14_many_packets_that_came_at_once_leave_time_for_others() {
    // A registration in another place each time writes a line to the log, which is a step.
    let scene = DistributorScene::start();
    let _logs = scene.clock.at_log_lines();
    let packets: String = (1..=1000).map(|port| format!("{}¶", registration("moves", port, &[]))).collect();
    let _flood = flood(scene.peer().await, packets, usize::MAX);
    scene.clock.check().await;
}

/// A log whose lines take time.
struct LineCounter(StepClock);

impl std::io::Write for LineCounter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.step();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn fr14_a_change_that_many_are_told_of_leaves_time_for_others() {
    let scene = DistributorScene::start();
    let mut followers = Vec::new();
    for number in 1..=2 * STEPS {
        let follower = scene.peer().await;
        send(&follower, registration(&format!("n{number}"), 1, &[]));
        followers.push(follower);
    }
    // All are told of one another, and the pause after that is over.
    sleep(Duration::from_secs(1)).await;
    scene.clock.at(&scene.host);
    send(&followers[0], registration("n1", 2, &[]));
    scene.clock.check().await;
}

#[tokio::test(start_paused = true)]
async fn ov4_a_caller_that_never_pauses_leaves_time_for_others() {
    let scene = DistributorScene::start();
    let call = r#"{"uri":"/work","method":"GET","key":1,"$":{},"params":null}¶"#;
    // Calls that are answered at once, and calls whose work comes later.
    for later in [false, true] {
        let host = scene.net.host();
        let clock = scene.clock.clone();
        let handler = move || {
            let clock = clock.clone();
            async move {
                if later {
                    yield_now().await;
                }
                clock.step();
                Ok::<_, ServiceError>(())
            }
        };
        let _node = scene.node(&host, Node::builder("works").route("GET/work", handler)).await;
        let _flood = flood(scene.connect(&host, 2).await, call.repeat(1000), usize::MAX);
        scene.clock.check().await;
    }
    // A call in many small pieces.
    let host = scene.net.host();
    let _node = scene.node(&host, Node::builder("reads")).await;
    let packet = format!(r#"{{"uri":"/x","method":"GET","key":1,"$":{{}},"params":"{}"}}¶"#, "x".repeat(1 << 20));
    let _flood = flood(scene.connect(&host, 2).await, packet, 100);
    scene.clock.at(&host);
    scene.clock.check().await;
}

#[tokio::test(start_paused = true)]
async fn ov4_a_callee_that_never_pauses_leaves_time_for_others() {
    let scene = DistributorScene::start();
    let (callee, host) = (scene.net.host(), scene.net.host());
    let mut callers = Acceptor::new(Network::Virtual(callee.clone()).bind(([0, 0, 0, 0], 2).into()).unwrap());
    let registered = Network::Virtual(callee).connect_to((scene.host.address(), 1).into()).await.unwrap();
    send(&registered, registration("callee", 2, &["GET/work"]));
    let caller = scene.node(&host, Node::builder("caller")).await;
    caller.peers().wait_for(&["GET/work"]).await;
    let peers = caller.peers().clone();
    let call = tokio::spawn(async move { peers.call::<u32>("GET/work", &()).await });
    let (socket, _) = callers.accept().await;
    // Responses to calls that were never made, one in each read.
    let _flood = flood(socket, r#"{"key":7,"$":{},"params":1}¶"#, usize::MAX);
    scene.clock.at(&host);
    scene.clock.check().await;
    call.abort();
}

/// A node, and the connection that it makes to a Distributor that is none.
struct FalseDistributorScene {
    host: Host,
    clock: StepClock,
    socket: Socket,
    _node: Node,
}

impl FalseDistributorScene {
    async fn start() -> Self {
        let net = VirtualNet::default();
        let (false_distributor, host) = (net.host(), net.host());
        let listener = Network::Virtual(false_distributor.clone()).bind(([0, 0, 0, 0], 1).into()).unwrap();
        let mut nodes = Acceptor::new(listener);
        let node = Node::builder("node").network(Network::Virtual(host.clone())).listen("127.0.0.1:2");
        let node = node.distributor(format!("{}:1", false_distributor.address())).start().await.unwrap();
        let (socket, _) = nodes.accept().await;
        Self { host, clock: StepClock::default(), socket, _node: node }
    }
}

#[tokio::test(start_paused = true)]
async fn ov4_a_distributor_that_never_pauses_leaves_time_for_others() {
    let scene = FalseDistributorScene::start().await;
    let _flood = flood(scene.socket, r#"{"uri":"$nothing","$":{}}¶"#, usize::MAX);
    scene.clock.at(&scene.host);
    scene.clock.check().await;
}

#[tokio::test(start_paused = true)]
async fn ov4_many_packets_of_a_distributor_that_came_at_once_leave_time_for_others() {
    // A list writes a line to the log, which is a step.
    let scene = FalseDistributorScene::start().await;
    let _logs = scene.clock.at_log_lines();
    let list = r#"{"uri":"/distributes","method":"GET","key":0,"params":[]}¶"#;
    let _flood = flood(scene.socket, list.repeat(1000), usize::MAX);
    scene.clock.check().await;
}
