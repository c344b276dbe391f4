//! Thousands of simulated nodes in one thread.

mod arriving;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use memchr::memmem;
use protocol::{
    ListUpdate, Packet, Pong, Replica, Revision, UnpackedBlocks, UpdateOutcome, write_copy, write_list_request,
    write_pong,
};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use self::arriving::Arriving;

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

/// What nodes use that are told of a part: each of them the urls of some others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs {
    /// How many others.
    pub(crate) each: usize,
    /// How many nodes there are.
    pub(crate) of: usize,
}

/// One node.
#[derive(Debug, Default)]
pub(crate) struct SwarmNode {
    number: usize,
    old: bool,
    /// Of how many others it uses the url, and is told; `None` for all.
    needs: Option<Needs>,
    /// How many entries it knows.
    pub(crate) entries: Cell<usize>,
    /// The fewest it has known since the last reset.
    pub(crate) fewest: Cell<usize>,
    pub(crate) packets: Cell<u64>,
    revision: Cell<Option<Revision>>,
    digest: Cell<Option<u64>>,
    replica: RefCell<Option<Replica>>,
    connected: Cell<bool>,
    /// When it tries to register again.
    register_at: Cell<Option<Instant>>,
    /// It neither reads nor answers.
    pub(crate) frozen: Cell<bool>,
    thaw: Notify,
}

impl Swarm {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, seen: Rc::default(), nodes: Vec::new(), tasks: Vec::new() }
    }

    /// Starts nodes. They connect at once.
    pub(crate) fn start(&mut self, count: usize, old: bool) {
        self.start_with(count, old, None);
    }

    /// Starts nodes that are told of what they use. They connect at once.
    pub(crate) fn start_with(&mut self, count: usize, old: bool, needs: Option<Needs>) {
        for _ in 0..count {
            let number = self.nodes.len();
            let replica = (number < REPLICAS && !old && needs.is_none()).then(Replica::default);
            let replica = RefCell::new(replica);
            let node = Rc::new(SwarmNode { number, old, needs, replica, ..SwarmNode::default() });
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
        if self.nodes.first().is_some_and(|node| !node.old && node.needs.is_none()) {
            self.check().await;
        }
    }

    fn is_complete(&self, entries: usize) -> bool {
        // A node that only counts takes an entry that it is told again for another one. It is
        // corrected by the first node, which has a replica, if both are at the same revision.
        let known = self.nodes.first().map(|node| (node.revision.get(), node.entries.get()));
        self.nodes.iter().filter(|node| !node.frozen.get()).all(|node| {
            if let Some((revision, entries)) = known
                && !node.old
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

impl SwarmNode {
    pub(crate) fn thaw(&self) {
        self.frozen.set(false);
        self.thaw.notify_one();
    }

    /// Connects, and connects again as a real node does: at its own moment within three seconds,
    /// and then every three seconds.
    async fn run(&self, address: SocketAddr, seen: &SwarmSample) {
        loop {
            if let Ok(stream) = TcpStream::connect(address).await {
                let _ = self.follow(&stream, seen).await;
                self.connected.set(false);
                let known = self.entries.get().max(1);
                #[expect(clippy::cast_precision_loss, reason = "there are thousands")]
                let rank = (self.number % known) as f64 / known as f64;
                tokio::time::sleep(Duration::from_secs(3).mul_f64(rank)).await;
            } else {
                tokio::time::sleep(Duration::from_secs(3)).await;
            }
        }
    }

    async fn follow(&self, stream: &TcpStream, seen: &SwarmSample) -> std::io::Result<()> {
        net::set_tcp_options(stream);
        write(stream, self.registration().as_bytes()).await?;
        if let Some(replica) = &mut *self.replica.borrow_mut() {
            replica.connected();
        }
        let mut packet = Arriving::default();
        loop {
            self.readable(stream).await?;
            if self.frozen.get() {
                self.thaw.notified().await;
            }
            // All nodes share one buffer. No node waits while it uses the buffer.
            let mut buffer = seen.buffer.take();
            buffer.resize(256 * 1024, 0);
            let bytes = match stream.try_read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => 0,
                Err(error) => return Err(error),
            };
            seen.bytes.set(seen.bytes.get() + bytes as u64);
            let mut answers = BytesMut::new();
            let mut rest = &buffer[..bytes];
            while let Some(end) = packet.end(rest) {
                packet.add(&rest[..end], self.replica.borrow().is_none());
                if let Some(answer) = self.apply(&std::mem::take(&mut packet), seen) {
                    answers.extend_from_slice(&answer);
                }
                rest = &rest[end..];
            }
            packet.add(rest, self.replica.borrow().is_none());
            seen.buffer.replace(buffer);
            if !answers.is_empty() {
                write(stream, &answers).await?;
            }
        }
    }

    /// Waits until bytes have arrived, and registers again when it is time to.
    async fn readable(&self, stream: &TcpStream) -> std::io::Result<()> {
        let Some(at) = self.register_at.get() else { return stream.readable().await };
        tokio::select! {
            ready = stream.readable() => ready,
            () = tokio::time::sleep_until(at.into()) => {
                self.register_at.set(None);
                write(stream, self.registration().as_bytes()).await?;
                stream.readable().await
            }
        }
    }

    fn registration(&self) -> String {
        // No two nodes have the same port.
        let (number, port) = (self.number, 1001 + self.number);
        let have = self
            .revision
            .get()
            .map_or_else(String::new, |Revision { epoch, rev }| format!(r#","have":{{"epoch":{epoch},"rev":{rev}}}"#));
        let (own, uses) = self.urls();
        let urls = own.as_deref().unwrap_or(r#"["POST/goods","GET/goods"]"#);
        // As random as ids of real nodes: what repeats packs better.
        let instance = fastrand::Rng::with_seed(number as u64).u128(..);
        if self.old {
            return format!(
                r#"{{"uri":"/distributes","method":"POST","key":0,"params":{{"port":{port},"name":"n{number:05}","urls":{urls}}}}}¶"#
            );
        }
        format!(
            r#"{{"uri":"/distributes","method":"POST","key":0,"params":{{"port":{port},"name":"n{number:05}","urls":{urls},"$":{{"v":2,"id":"{instance:032x}"}}}},"$":{{"packed":true{have}{uses}}}}}¶"#
        )
    }

    /// The urls that it offers and uses, if it is told of a part.
    fn urls(&self) -> (Option<String>, String) {
        let Some(Needs { each, of }) = self.needs else { return (None, String::new()) };
        let used: Vec<String> =
            (1..=each).map(|at| format!(r#""GET/n{}""#, (self.number + at * of / (each + 1)) % of)).collect();
        let uses = format!(r#","uses":[{}],"part":true"#, used.join(","));
        (Some(format!(r#"["GET/n{}"]"#, self.number)), uses)
    }

    fn apply(&self, packet: &Arriving, seen: &SwarmSample) -> Option<BytesMut> {
        let frame = packet.bytes.strip_suffix("¶".as_bytes()).unwrap_or(&packet.bytes);
        let mut out = BytesMut::new();
        if frame.starts_with(br#"{"uri":"$ping""#) {
            write_pong(&mut out, Pong { revision: self.revision.get(), digest: None });
            return Some(out);
        }
        if memmem::find(&frame[..frame.len().min(120)], br#""copy":true"#).is_some() {
            // A node that only counts sends the copy of a node with a replica at the same revision.
            for node in seen.with_replica.borrow().iter() {
                if let Some(replica) = &*node.replica.borrow()
                    && replica.revision() == self.revision.get()
                {
                    write_copy(&mut out, replica.revision()?, replica.digest(), replica.entries());
                    break;
                }
            }
            return Some(out);
        }
        if frame.len() < 400 && memmem::find(frame, br#""r":""#).is_some() {
            // The registration was refused, because too many come at once. It says when to try
            // again.
            let after = number_after(frame, br#""ra":"#);
            self.register_at.set(after.map(|ms| Instant::now() + Duration::from_millis(ms)));
            return None;
        }
        let is_change = frame.starts_with(br#"{"uri":"/distributes","method":"PATCH""#);
        let known = self.entries.get();
        let (joined, left) = packet.counts();
        let entries = match is_change {
            // Not unpacked. One that is thorough and in the same state says how many there are.
            _ if packet.is_packed() => known,
            true => known + joined - left,
            false => joined,
        };
        self.entries.set(entries);
        if let Some(replica) = &mut *self.replica.borrow_mut() {
            let mut unpacked = UnpackedBlocks::default();
            let packet = Packet::parse(frame).unwrap();
            match replica.apply(Instant::now(), &ListUpdate::parse(&packet, &mut unpacked).unwrap()) {
                UpdateOutcome::Changed | UpdateOutcome::Same => {
                    let digest = replica.revision().map(|_| u64::from(replica.digest().0));
                    let said = number_after(frame, br#""digest":"#);
                    assert_eq!(digest, said, "the replica's digest is the one that the Distributor sent");
                }
                UpdateOutcome::Stale => {}
                UpdateOutcome::Gap => {
                    println!("a node has found a gap: {}", String::from_utf8_lossy(&frame[..frame.len().min(300)]));
                    write_list_request(&mut out, 1);
                }
            }
            // While the Distributor warms up, nodes that are kept from before count as well.
            self.entries.set(if is_change && !replica.is_warming() { replica.len() } else { replica.nodes().len() });
        }
        if !packet.is_packed() {
            self.fewest.set(self.fewest.get().min(self.entries.get()));
        }
        self.digest.set(number_after(frame, br#""digest":"#));
        let (epoch, rev) = (number_after(frame, br#""epoch":"#), number_after(frame, br#""rev":"#));
        self.revision.set(epoch.zip(rev).map(|(epoch, rev)| Revision { epoch, rev }));
        self.connected.set(true);
        self.packets.set(self.packets.get() + 1);
        seen.packets.set(seen.packets.get() + 1);
        let needle = seen.needle.borrow();
        if !needle.is_empty() && memmem::find(frame, &needle).is_some() {
            seen.found.set(seen.found.get() + 1);
        }
        if is_change {
            let made = seen.made.borrow();
            let mut latencies = seen.latencies.borrow_mut();
            for at in memmem::find_iter(frame, br#""name":"c"#).take(if made.is_empty() { 0 } else { usize::MAX }) {
                let digits: String = frame[at + 9..].iter().take(6).map(|byte| char::from(*byte)).collect();
                let made: Instant = made[digits.parse::<usize>().unwrap()];
                latencies.push(u32::try_from(made.elapsed().as_micros()).unwrap());
            }
        }
        seen.changed.notify_waiters();
        (!out.is_empty()).then_some(out)
    }
}

/// The number that follows the last `name` in a frame.
fn number_after(frame: &[u8], name: &[u8]) -> Option<u64> {
    let at = memmem::rfind(frame, name)? + name.len();
    let digits: String =
        frame[at..].iter().take_while(|byte| byte.is_ascii_digit()).map(|byte| char::from(*byte)).collect();
    digits.parse().ok()
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
