//! Thousands of simulated nodes in one thread.
//!
//! It must not say what is measured: the scenes of `registry` do.

mod arriving;
mod node;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use memchr::memmem;
use protocol::{Pong, Replica, write_pong};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

pub(crate) use self::node::{Needs, SwarmNode};

/// Nodes that keep and check a replica, as a real node does. The others only count entries, to save
/// memory and time.
const REPLICAS: usize = 8;

/// All nodes, and what they have seen.
#[derive(Debug)]
pub(crate) struct Swarm {
    address: SocketAddr,
    pub(crate) seen: Rc<SwarmSample>,
    nodes: Vec<Rc<SwarmNode>>,
    tasks: Vec<JoinHandle<()>>,
}

/// The observations of all nodes together.
#[derive(Debug, Default)]
pub(crate) struct SwarmSample {
    pub(crate) bytes: Cell<u64>,
    /// Lists and changes.
    pub(crate) packets: Cell<u64>,
    /// A text that every node should find in a list or change, and how many nodes have found it.
    needle: RefCell<Vec<u8>>,
    found: Cell<usize>,
    /// When each change was made, by the number in the name of its node; and the times in
    /// microseconds until nodes were told.
    made: RefCell<Vec<Instant>>,
    pub(crate) latencies: RefCell<Vec<u32>>,
    with_replica: RefCell<Vec<Rc<SwarmNode>>>,
    /// The buffer into which all sockets are read.
    buffer: RefCell<Vec<u8>>,
    changed: Notify,
}

impl Swarm {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, seen: Rc::default(), nodes: Vec::new(), tasks: Vec::new() }
    }

    /// Starts nodes. They connect at once.
    pub(crate) fn start(&mut self, count: usize, is_legacy: bool) {
        self.start_with(count, is_legacy, None);
    }

    /// Starts nodes that are told of what they use. They connect at once.
    pub(crate) fn start_with(&mut self, count: usize, is_legacy: bool, needs: Option<Needs>) {
        for _ in 0..count {
            let number = self.nodes.len();
            let replica = (number < REPLICAS && !is_legacy && needs.is_none()).then(Replica::default);
            let replica = RefCell::new(replica);
            let node = Rc::new(SwarmNode { number, is_legacy, needs, replica, ..SwarmNode::default() });
            self.nodes.push(Rc::clone(&node));
            if node.replica.borrow().is_some() {
                self.seen.with_replica.borrow_mut().push(Rc::clone(&node));
            }
            let (address, seen) = (self.address, Rc::clone(&self.seen));
            self.tasks.push(tokio::task::spawn_local(async move { node.run(address, &seen).await }));
        }
    }

    pub(crate) fn nodes(&self) -> &[Rc<SwarmNode>] {
        &self.nodes
    }

    /// Waits until the condition holds. It is checked whenever a node has seen something.
    pub(crate) async fn until(&self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let begin = Instant::now();
        while !condition(self) {
            let _ = tokio::time::timeout(Duration::from_millis(200), self.seen.changed.notified()).await;
            assert!(begin.elapsed() < Duration::from_secs(120), "not within two minutes: {what}: {}", self.state());
        }
    }

    /// Returns a future that waits until every node has seen this text in a packet that came after
    /// the call.
    pub(crate) fn watch(&self, needle: &str) -> impl Future<Output = ()> + '_ {
        self.seen.needle.replace(needle.as_bytes().to_vec());
        self.seen.found.set(0);
        async move {
            let awake = self.nodes.iter().filter(|node| !node.frozen.get()).count();
            self.until("every node is told", |swarm| swarm.seen.found.get() >= awake).await;
        }
    }

    /// Waits until every node knows this number of entries, and all are at the same revision.
    pub(crate) async fn complete(&self, entries: usize) {
        self.until("every node is complete", |swarm| swarm.is_complete(entries)).await;
        if self.nodes.first().is_some_and(|node| !node.is_legacy && node.needs.is_none()) {
            self.check().await;
        }
    }

    fn is_complete(&self, entries: usize) -> bool {
        // A node that only counts takes an entry that it is told again for another one. It is
        // corrected by the first node, which has a replica, if both are at the same revision.
        let known = self.nodes.first().map(|node| (node.revision.get(), node.entries.get()));
        self.nodes.iter().filter(|node| !node.frozen.get()).all(|node| {
            if let Some((revision, entries)) = known
                && !node.is_legacy
                && node.needs.is_none()
                && node.revision.get() == revision
            {
                node.entries.set(entries);
            }
            node.entries.get() == entries
        })
    }

    /// Checks that all nodes that read know the same list. If one does not, the run is void.
    pub(crate) async fn check(&self) {
        self.until("all are at one revision", |swarm| {
            let mut states = swarm.nodes.iter().filter(|node| !node.frozen.get()).map(|node| node.revision.get());
            let first = states.next();
            states.all(|state| Some(state) == first)
        })
        .await;
        let mut digests = self.nodes.iter().filter(|node| !node.frozen.get()).map(|node| node.digest.get());
        let first = digests.next();
        assert!(digests.all(|digest| Some(digest) == first), "nodes at one revision have different digests");
    }

    fn state(&self) -> String {
        let known: Vec<usize> = self.nodes.iter().map(|node| node.entries.get()).collect();
        let connected = self.nodes.iter().filter(|node| node.connected.get()).count();
        let (least, most) = (known.iter().min(), known.iter().max());
        let first = self.nodes.first().map(|node| node.revision.get());
        let same = self.nodes.iter().filter(|node| Some(node.revision.get()) == first).count();
        let found = self.seen.found.get();
        format!(
            "{connected} connected, {least:?} to {most:?} entries known, {same} at the revision of the first, {found} found the text"
        )
    }

    pub(crate) fn connected(&self) -> usize {
        self.nodes.iter().filter(|node| node.connected.get()).count()
    }

    /// Records that a change is made now, and returns its number.
    pub(crate) fn make(&self) -> usize {
        let mut made = self.seen.made.borrow_mut();
        made.push(Instant::now());
        made.len() - 1
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl SwarmSample {
    /// Records a list or a change that a node was sent: whether it has the text that is looked for,
    /// and how late it tells changes that were [made](Swarm::make).
    fn record(&self, frame: &[u8], is_change: bool) {
        self.packets.set(self.packets.get() + 1);
        let needle = self.needle.borrow();
        if !needle.is_empty() && memmem::find(frame, &needle).is_some() {
            self.found.set(self.found.get() + 1);
        }
        if is_change {
            let made = self.made.borrow();
            let mut latencies = self.latencies.borrow_mut();
            for at in memmem::find_iter(frame, br#""name":"c"#).take(if made.is_empty() { 0 } else { usize::MAX }) {
                let digits: String = frame[at + 9..].iter().take(6).map(|byte| char::from(*byte)).collect();
                let made: Instant = made[digits.parse::<usize>().unwrap()];
                latencies.push(u32::try_from(made.elapsed().as_micros()).unwrap());
            }
        }
        self.changed.notify_waiters();
    }
}

/// Writes all bytes.
pub(crate) async fn write(stream: &TcpStream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Lets a node join that only answers pings, until it is dropped.
pub(crate) async fn join(address: SocketAddr, name: &str, instance: usize) -> Joined {
    join_with(address, name, instance, r#"["POST/goods","GET/goods"]"#).await
}

/// As [`join`], with other routes.
pub(crate) async fn join_with(address: SocketAddr, name: &str, instance: usize, urls: &str) -> Joined {
    let stream = TcpStream::connect(address).await.unwrap();
    // Nodes that are there at the same time have different ports.
    let port = 10_000 + instance % 50_000;
    let registration = format!(
        r#"{{"uri":"/distributes","method":"POST","key":0,"params":{{"port":{port},"name":"{name}","urls":{urls},"$":{{"v":2,"id":"c{instance:031x}"}}}},"$":{{"needs":[]}}}}¶"#
    );
    write(&stream, registration.as_bytes()).await.unwrap();
    Joined(tokio::task::spawn_local(async move {
        let mut scrap = [0; 4096];
        let mut pong = BytesMut::new();
        write_pong(&mut pong, Pong::default());
        while stream.readable().await.is_ok() {
            match stream.try_read(&mut scrap) {
                Ok(0) => return,
                Ok(bytes) if memmem::find(&scrap[..bytes], b"$ping").is_some() => drop(stream.try_write(&pong)),
                Ok(_) | Err(_) => {}
            }
        }
    }))
}

/// A node that has joined. It leaves when this is dropped.
pub(crate) struct Joined(JoinHandle<()>);

impl Drop for Joined {
    fn drop(&mut self) {
        self.0.abort();
    }
}
