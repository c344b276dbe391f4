//! One node of the swarm: it registers, answers pings, and counts or applies what it is told.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use memchr::memmem;
use protocol::{
    ListUpdate, Packet, Pong, Replica, Revision, UnpackedBlocks, UpdateOutcome, write_copy, write_list_request,
    write_pong,
};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::arriving::Arriving;
use super::{SwarmSample, write};

/// What nodes with a partial view use: each of them the urls of some others.
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
    pub(super) number: usize,
    pub(super) is_legacy: bool,
    /// The number of others whose urls it uses, and of which it is told; `None` for all.
    pub(super) needs: Option<Needs>,
    /// How many entries it knows.
    pub(crate) entries: Cell<usize>,
    /// The fewest it has known since the last reset.
    pub(crate) fewest: Cell<usize>,
    pub(crate) packets: Cell<u64>,
    pub(super) revision: Cell<Option<Revision>>,
    pub(super) digest: Cell<Option<u64>>,
    pub(super) replica: RefCell<Option<Replica>>,
    pub(super) connected: Cell<bool>,
    /// When it tries to register again.
    pub(super) register_at: Cell<Option<Instant>>,
    /// Whether the node neither reads nor answers.
    pub(crate) frozen: Cell<bool>,
    pub(super) thaw: Notify,
}

impl SwarmNode {
    pub(crate) fn thaw(&self) {
        self.frozen.set(false);
        self.thaw.notify_one();
    }

    /// Connects, and connects again as a real node does: at its own moment within three seconds,
    /// and then every three seconds.
    pub(super) async fn run(&self, address: SocketAddr, seen: &SwarmSample) {
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
            replica.record_connect();
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
        if self.is_legacy {
            return format!(
                r#"{{"uri":"/distributes","method":"POST","key":0,"params":{{"port":{port},"name":"n{number:05}","urls":{urls}}}}}¶"#
            );
        }
        format!(
            r#"{{"uri":"/distributes","method":"POST","key":0,"params":{{"port":{port},"name":"n{number:05}","urls":{urls},"$":{{"v":2,"id":"{instance:032x}"}}}},"$":{{"packed":true{have}{uses}}}}}¶"#
        )
    }

    /// The urls that it offers and uses, if it has a partial view.
    fn urls(&self) -> (Option<String>, String) {
        let Some(Needs { each, of }) = self.needs else { return (None, String::new()) };
        let used: Vec<String> =
            (1..=each).map(|at| format!(r#""GET/n{}""#, (self.number + at * of / (each + 1)) % of)).collect();
        let uses = format!(r#","uses":[{}],"part":true"#, used.join(","));
        (Some(format!(r#"["GET/n{}"]"#, self.number)), uses)
    }

    /// Applies a packet. Returns what the node answers, if anything.
    fn apply(&self, packet: &Arriving, seen: &SwarmSample) -> Option<BytesMut> {
        let frame = packet.bytes.strip_suffix("¶".as_bytes()).unwrap_or(&packet.bytes);
        let mut out = BytesMut::new();
        if frame.starts_with(br#"{"uri":"$ping""#) {
            write_pong(&mut out, Pong { revision: self.revision.get(), digest: None });
            return Some(out);
        }
        if memmem::find(&frame[..frame.len().min(120)], br#""copy":true"#).is_some() {
            return self.copy_of_another(seen);
        }
        if frame.len() < 400 && memmem::find(frame, br#""r":""#).is_some() {
            // The registration was refused, because too many come at once. It says when to try
            // again.
            let after = number_after(frame, br#""ra":"#);
            self.register_at.set(after.map(|ms| Instant::now() + Duration::from_millis(ms)));
            return None;
        }
        let is_change = frame.starts_with(br#"{"uri":"/distributes","method":"PATCH""#);
        self.count_entries(packet, is_change);
        self.apply_to_replica(frame, is_change, &mut out);
        if !packet.is_packed() {
            self.fewest.set(self.fewest.get().min(self.entries.get()));
        }
        self.digest.set(number_after(frame, br#""digest":"#));
        let (epoch, rev) = (number_after(frame, br#""epoch":"#), number_after(frame, br#""rev":"#));
        self.revision.set(epoch.zip(rev).map(|(epoch, rev)| Revision { epoch, rev }));
        self.connected.set(true);
        self.packets.set(self.packets.get() + 1);
        seen.record(frame, is_change);
        (!out.is_empty()).then_some(out)
    }

    /// The copy of a node with a replica at the same revision, for a node that only counts.
    fn copy_of_another(&self, seen: &SwarmSample) -> Option<BytesMut> {
        let mut out = BytesMut::new();
        for node in seen.with_replica.borrow().iter() {
            if let Some(replica) = &*node.replica.borrow()
                && replica.revision() == self.revision.get()
            {
                write_copy(&mut out, replica.revision()?, replica.digest(), replica.entries());
                break;
            }
        }
        Some(out)
    }

    /// Counts the entries that are known after a list or a change.
    fn count_entries(&self, packet: &Arriving, is_change: bool) {
        let known = self.entries.get();
        let (joined, left) = packet.counts();
        let entries = match is_change {
            // Not unpacked. One that is thorough and in the same state says how many there are.
            _ if packet.is_packed() => known,
            true => known + joined - left,
            false => joined,
        };
        self.entries.set(entries);
    }

    /// Applies the update to the replica of a thorough node, and compares the digests.
    fn apply_to_replica(&self, frame: &[u8], is_change: bool, out: &mut BytesMut) {
        let Some(replica) = &mut *self.replica.borrow_mut() else { return };
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
                write_list_request(out, 1);
            }
        }
        // While the Distributor warms up, nodes that are kept from before count as well.
        self.entries.set(if is_change && !replica.is_warming() { replica.len() } else { replica.nodes().len() });
    }
}

/// The number that follows the last `name` in a frame.
fn number_after(frame: &[u8], name: &[u8]) -> Option<u64> {
    let at = memmem::rfind(frame, name)? + name.len();
    let digits: String =
        frame[at..].iter().take_while(|byte| byte.is_ascii_digit()).map(|byte| char::from(*byte)).collect();
    digits.parse().ok()
}
