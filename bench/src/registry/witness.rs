//! Good nodes beside hostile ones. They record when they are told of changes, and when they are
//! pinged.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use memchr::memmem;
use protocol::{FrameDecoder, HISTORY_URI, HistoryEvent, Packet, Pong, write_history_request, write_pong};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::registry::swarm::join;

/// The time between two changes.
const CHANGE_INTERVAL: Duration = Duration::from_millis(50);
/// The name of all these nodes.
pub(crate) const NAME: &str = "witness";
/// Maximum bytes of a list or history.
const MAX_PACKET_BYTES: usize = 64 << 20;
/// How long to wait for the history.
const HISTORY_TIMEOUT: Duration = Duration::from_secs(5);

/// All good nodes, and what they have seen. They leave when this is dropped.
pub(crate) struct Witnesses {
    address: SocketAddr,
    seen: Rc<WitnessSample>,
    tasks: Vec<AbortOnDropHandle<()>>,
}

#[derive(Default)]
struct WitnessSample {
    /// When each change was made, by its number.
    made: RefCell<Vec<Instant>>,
    told: RefCell<Vec<Duration>>,
    longest_silence: Cell<Duration>,
    announced: Cell<Duration>,
    lost: Cell<usize>,
}

/// The observations of all of them in some time.
pub(crate) struct Report {
    /// For each change and node: the time until the node was told. Those that were not told in time
    /// are missing.
    pub(crate) told: Vec<Duration>,
    /// How many times there would be if all nodes had been told of all changes.
    pub(crate) expected: usize,
    /// The longest time that a node has waited for a ping.
    pub(crate) longest_silence: Duration,
    /// The longest time between two pings that a ping has announced.
    pub(crate) announced: Duration,
    /// Connections that ended.
    pub(crate) lost: usize,
}

impl Witnesses {
    /// Joins `count` witnesses, and waits until all know the list.
    pub(crate) async fn join(address: SocketAddr, count: usize) -> Self {
        let seen = Rc::<WitnessSample>::default();
        let mut tasks = Vec::new();
        for number in 0..count {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let registration = format!(
                r#"{{"uri":"/distributes","method":"POST","key":0,"params":{{"port":{},"name":"{NAME}","urls":[],"$":{{"v":2,"id":"w{number:031x}"}}}},"$":{{}}}}¶"#,
                1 + number
            );
            stream.write_all(registration.as_bytes()).await.unwrap();
            let mut decoder = FrameDecoder::new(MAX_PACKET_BYTES);
            while !matches!(decoder.next_frame(), Ok(Some(_))) {
                assert!(stream.read_buf(decoder.buffer()).await.unwrap() > 0, "it is let in");
            }
            let seen = Rc::clone(&seen);
            tasks.push(AbortOnDropHandle::new(spawn_local(async move {
                seen.follow(stream, decoder).await;
                seen.lost.set(seen.lost.get() + 1);
            })));
        }
        Self { address, seen, tasks }
    }

    /// For this time, lets another node join and leave every 50 ms. Calls `each` after every
    /// change.
    pub(crate) async fn watch(&self, time: Duration, mut each: impl FnMut()) -> Report {
        self.seen.told.take();
        self.seen.made.take();
        self.seen.longest_silence.take();
        let begin = Instant::now();
        let mut changes = 0;
        while begin.elapsed() < time {
            self.seen.made.borrow_mut().push(Instant::now());
            // This does not wait until the Distributor has read the registration: it may be late.
            let node = join(self.address, &format!("c{changes:06}"), changes).await;
            changes += 1;
            sleep(CHANGE_INTERVAL).await;
            each();
            drop(node);
        }
        let told = self.seen.told.take();
        Report {
            told,
            expected: changes * self.tasks.len(),
            longest_silence: self.seen.longest_silence.get(),
            announced: self.seen.announced.get(),
            lost: self.seen.lost.get(),
        }
    }
}

impl WitnessSample {
    async fn follow(&self, mut stream: TcpStream, mut decoder: FrameDecoder) {
        let mut pong = BytesMut::new();
        write_pong(&mut pong, Pong::default());
        let mut pinged = Instant::now();
        loop {
            while let Ok(Some(frame)) = decoder.next_frame() {
                if frame.starts_with(br#"{"uri":"$ping""#) {
                    self.longest_silence.set(self.longest_silence.get().max(pinged.elapsed()));
                    pinged = Instant::now();
                    self.announced.set(self.announced.get().max(announced(&frame)));
                    if stream.write_all(&pong).await.is_err() {
                        return;
                    }
                }
                self.record(&frame);
            }
            match timeout(CHANGE_INTERVAL, stream.read_buf(decoder.buffer())).await {
                Ok(Ok(1..)) => {}
                Ok(_) => return,
                Err(_elapsed) => self.longest_silence.set(self.longest_silence.get().max(pinged.elapsed())),
            }
        }
    }

    fn record(&self, frame: &[u8]) {
        let (made, mut told) = (self.made.borrow(), self.told.borrow_mut());
        for at in memmem::find_iter(frame, br#""name":"c"#) {
            let digits = frame.get(at + 9..at + 15).and_then(|digits| std::str::from_utf8(digits).ok());
            let made = digits.and_then(|digits| digits.parse::<usize>().ok()).and_then(|number| made.get(number));
            told.extend(made.map(Instant::elapsed));
        }
    }
}

/// The time until the next ping, as this ping says.
fn announced(ping: &[u8]) -> Duration {
    let every = memmem::find(ping, br#""every":"#).map(|at| &ping[at + 8..]).unwrap_or_default();
    let digits = every.iter().take_while(|byte| byte.is_ascii_digit());
    Duration::from_millis(digits.fold(0, |millis, digit| 10 * millis + u64::from(digit - b'0')))
}

/// Counts how often nodes of one name were suspected: asks for their history each second.
pub(crate) struct Suspicions {
    revisions: Rc<RefCell<HashSet<(u64, String)>>>,
    _task: AbortOnDropHandle<()>,
}

impl Suspicions {
    /// Begins to ask the Distributor at this address.
    pub(crate) fn about(address: SocketAddr, name: &'static str) -> Self {
        let revisions = Rc::<RefCell<HashSet<_>>>::default();
        let found = Rc::clone(&revisions);
        let task = spawn_local(async move {
            loop {
                if let Ok(Some(events)) = timeout(HISTORY_TIMEOUT, history(address, name)).await {
                    let bad = events.into_iter().filter(|event| event.event == "suspect" || event.why.contains("hung"));
                    found.borrow_mut().extend(bad.map(|event| (event.rev, event.address)));
                }
                sleep(Duration::from_secs(1)).await;
            }
        });
        Self { revisions, _task: AbortOnDropHandle::new(task) }
    }

    pub(crate) fn count(&self) -> usize {
        self.revisions.borrow().len()
    }
}

async fn history(address: SocketAddr, name: &str) -> Option<Vec<HistoryEvent>> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let mut question = BytesMut::new();
    write_history_request(&mut question, 1, name);
    stream.write_all(&question).await.ok()?;
    let mut decoder = FrameDecoder::new(MAX_PACKET_BYTES);
    loop {
        while let Ok(Some(frame)) = decoder.next_frame() {
            // The list that each new session is sent may come first.
            let packet = Packet::parse(&frame).ok().filter(|packet| packet.uri() == HISTORY_URI);
            if let Some(events) = packet.and_then(|packet| packet.params) {
                return serde_json::from_str(events.get()).ok();
            }
        }
        (stream.read_buf(decoder.buffer()).await.ok()? > 0).then_some(())?;
    }
}
