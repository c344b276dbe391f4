//! A network inside one process, for tests. Connections of its hosts are buffers, and hosts can be
//! killed, frozen, slowed down, and cut off from one another. It follows tokio's clock: with paused
//! time, hours pass in milliseconds.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{Interest, Ready};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// Maximum bytes that one direction of a connection holds. A writer waits for room.
const MAX_BYTES: usize = 256 * 1024;
/// The first of the ports that are chosen when none is given.
const FIRST_PORT: u16 = 32_768;

/// A network. Clones are cheap and stand for the same network.
#[derive(Clone, Debug, Default)]
pub struct VirtualNet {
    shared: Arc<NetShared>,
}

#[derive(Debug, Default)]
struct NetShared {
    state: Mutex<NetState>,
    /// Notified when hosts, or the paths between them, have changed.
    changed: Notify,
}

#[derive(Debug, Default)]
struct NetState {
    hosts: u32,
    ports: u16,
    frozen: HashSet<IpAddr>,
    delays: HashMap<IpAddr, Duration>,
    work: HashMap<IpAddr, Work>,
    /// Pairs of hosts that cannot reach one another, the lower address first.
    cuts: HashSet<(IpAddr, IpAddr)>,
    listeners: HashMap<SocketAddr, Arc<AcceptQueue>>,
    next_connection: u64,
    connections: HashMap<u64, VirtualConnection>,
}

/// A host's behaviour at each read and write.
#[derive(Clone)]
struct Work(Arc<dyn Fn() + Send + Sync>);

/// A host of a network. Clones are cheap and stand for the same host.
#[derive(Clone, Debug)]
pub struct Host {
    net: VirtualNet,
    address: IpAddr,
}

#[derive(Debug, Default)]
struct AcceptQueue {
    waiting: Mutex<VecDeque<(Pipe, SocketAddr)>>,
    arrived: Notify,
}

#[derive(Debug)]
struct VirtualConnection {
    ends: [SocketAddr; 2],
    /// The bytes that each end has written.
    directions: [Direction; 2],
}

#[derive(Debug, Default)]
struct Direction {
    /// Chunks of bytes, each with the time at which it arrives.
    chunks: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    /// Whether the writing end is closed.
    closed: bool,
    /// Whether the reading end is closed.
    reader_gone: bool,
    /// Whether a host at one end was killed.
    reset: bool,
    /// The tasks that wait to read, and to write.
    wakers: [Option<Waker>; 2],
}

/// An end of a connection.
#[derive(Debug)]
pub struct Pipe {
    net: VirtualNet,
    id: u64,
    side: usize,
}

/// The listener of one host.
#[derive(Debug)]
pub struct PipeListener {
    net: VirtualNet,
    address: SocketAddr,
    queue: Arc<AcceptQueue>,
}

/// Why an end cannot be read now.
enum NotReadable {
    /// There are no bytes, or none can pass.
    Nothing,
    /// Bytes arrive at this time.
    At(Instant),
}

impl VirtualNet {
    /// Adds a host with an address of its own.
    pub fn host(&self) -> Host {
        let mut state = self.lock();
        state.hosts += 1;
        let address = IpAddr::V4(Ipv4Addr::from_bits(u32::from_be_bytes([10, 0, 0, 0]) + state.hosts));
        drop(state);
        Host { net: self.clone(), address }
    }

    /// Cuts two hosts off from one another, in both directions and without an error at either; or
    /// connects them again.
    pub fn cut(&self, one: &Host, other: &Host, is_cut: bool) {
        let pair = pair(one.address, other.address);
        let mut state = self.lock();
        if is_cut {
            state.cuts.insert(pair)
        } else {
            state.cuts.remove(&pair)
        };
        self.change(state);
    }

    /// Wakes all tasks that wait, because something has changed.
    fn change(&self, mut state: MutexGuard<'_, NetState>) {
        let directions = state.connections.values_mut().flat_map(|connection| &mut connection.directions);
        let wakers: Vec<Waker> =
            directions.flat_map(|direction| direction.wakers.iter_mut().filter_map(Option::take)).collect();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        self.shared.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, NetState> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host {
    /// The address of the host.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Freezes the host: it neither reads nor writes, and its connections stay. Or lets it go on.
    pub fn freeze(&self, is_frozen: bool) {
        let mut state = self.net.lock();
        if is_frozen {
            state.frozen.insert(self.address)
        } else {
            state.frozen.remove(&self.address)
        };
        self.net.change(state);
    }

    /// Delays all bytes from and to this host from now on.
    pub fn set_delay(&self, delay: Duration) {
        self.net.lock().delays.insert(self.address, delay);
    }

    /// Calls `work` at each read and write of this host from now on. With paused time, `work` may
    /// advance the clock by the time that a real host would spend on the bytes.
    pub fn set_work(&self, work: impl Fn() + Send + Sync + 'static) {
        self.net.lock().work.insert(self.address, Work(Arc::new(work)));
    }

    /// Resets the connections of the host, and closes its listeners.
    pub fn kill(&self) {
        let mut state = self.net.lock();
        state.listeners.retain(|address, _| address.ip() != self.address);
        for connection in state.connections.values_mut() {
            if connection.ends.iter().any(|end| end.ip() == self.address) {
                connection.directions.iter_mut().for_each(|direction| direction.reset = true);
            }
        }
        self.net.change(state);
    }

    pub(crate) fn listen(&self, port: u16) -> PipeListener {
        let mut state = self.net.lock();
        let port = if port == 0 { state.port() } else { port };
        let (address, queue) = (SocketAddr::new(self.address, port), Arc::new(AcceptQueue::default()));
        state.listeners.insert(address, Arc::clone(&queue));
        drop(state);
        PipeListener { net: self.net.clone(), address, queue }
    }

    /// Connects. Refused if no listener has the address; waits while the two hosts are cut off from
    /// one another.
    pub(crate) async fn connect(&self, to: SocketAddr) -> io::Result<Pipe> {
        loop {
            let changed = self.net.shared.changed.notified();
            let (is_cut, delay) = {
                let state = self.net.lock();
                (state.is_cut(self.address, to.ip()), state.delay([self.address, to.ip()]))
            };
            if is_cut {
                changed.await;
                continue;
            }
            // There and back.
            sleep(2 * delay).await;
            let mut state = self.net.lock();
            let Some(queue) = state.listeners.get(&to).cloned() else {
                return Err(io::ErrorKind::ConnectionRefused.into());
            };
            let from = SocketAddr::new(self.address, state.port());
            let id = state.next_connection;
            state.next_connection += 1;
            state.connections.insert(id, VirtualConnection { ends: [from, to], directions: Default::default() });
            drop(state);
            let [ours, theirs] = [0, 1].map(|side| Pipe { net: self.net.clone(), id, side });
            queue.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back((theirs, from));
            queue.arrived.notify_one();
            return Ok(ours);
        }
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Work")
    }
}

impl NetState {
    fn port(&mut self) -> u16 {
        self.ports = self.ports.checked_add(1).unwrap_or_default();
        FIRST_PORT.checked_add(self.ports).unwrap_or(FIRST_PORT)
    }

    fn is_cut(&self, one: IpAddr, other: IpAddr) -> bool {
        self.cuts.contains(&pair(one, other))
    }

    fn delay(&self, hosts: [IpAddr; 2]) -> Duration {
        hosts.iter().filter_map(|host| self.delays.get(host)).sum()
    }

    fn work(&self, id: u64, side: usize) -> Option<Work> {
        self.work.get(&self.connections.get(&id)?.ends[side].ip()).cloned()
    }

    /// Checks that an end can be read now: it has bytes, the end of the stream, or an error.
    fn readable(&self, id: u64, side: usize) -> Result<(), NotReadable> {
        let Some(VirtualConnection { ends, directions }) = self.connections.get(&id) else { return Ok(()) };
        if self.frozen.contains(&ends[side].ip()) || self.is_cut(ends[0].ip(), ends[1].ip()) {
            return Err(NotReadable::Nothing);
        }
        let direction = &directions[1 - side];
        match direction.chunks.front() {
            Some((due, _)) if *due > Instant::now() && !direction.reset => Err(NotReadable::At(*due)),
            None if !direction.closed && !direction.reset => Err(NotReadable::Nothing),
            Some(_) | None => Ok(()),
        }
    }

    /// Whether an end can be written now: it has room, or an error.
    fn writable(&self, id: u64, side: usize) -> bool {
        let Some(VirtualConnection { ends, directions }) = self.connections.get(&id) else { return true };
        let direction = &directions[side];
        !self.frozen.contains(&ends[side].ip())
            && (direction.bytes < MAX_BYTES || direction.reader_gone || direction.reset)
    }
}

impl Pipe {
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.net.lock();
        if state.readable(self.id, self.side).is_err() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let Some(connection) = state.connections.get_mut(&self.id) else { return Ok(0) };
        let direction = &mut connection.directions[1 - self.side];
        if direction.reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let Some((_, chunk)) = direction.chunks.front_mut() else { return Ok(0) };
        let count = chunk.len().min(buffer.len());
        buffer[..count].copy_from_slice(&chunk[..count]);
        chunk.drain(..count);
        if chunk.is_empty() {
            direction.chunks.pop_front();
        }
        direction.bytes -= count;
        let writer = direction.wakers[1].take();
        let work = state.work(self.id, self.side);
        drop(state);
        writer.into_iter().for_each(Waker::wake);
        work.into_iter().for_each(|work| work.0());
        Ok(count)
    }

    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.net.lock();
        if !state.writable(self.id, self.side) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let ends = state.connections.get(&self.id).map(|connection| connection.ends.map(|end| end.ip()));
        let Some(due) = ends.map(|ends| Instant::now() + state.delay(ends)) else { return Ok(0) };
        let Some(connection) = state.connections.get_mut(&self.id) else { return Ok(0) };
        let direction = &mut connection.directions[self.side];
        if direction.reader_gone || direction.reset {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let count = bytes.len().min(MAX_BYTES - direction.bytes);
        if count > 0 {
            direction.chunks.push_back((due, bytes[..count].to_vec()));
        }
        direction.bytes += count;
        let reader = direction.wakers[0].take();
        let work = state.work(self.id, self.side);
        drop(state);
        reader.into_iter().for_each(Waker::wake);
        work.into_iter().for_each(|work| work.0());
        Ok(count)
    }

    /// Completes when it can be read or written, of those that `interest` asks for.
    pub(crate) fn poll_ready(&self, interest: Interest, context: &mut Context<'_>) -> Poll<Ready> {
        let mut state = self.net.lock();
        let readable = if interest.is_readable() { Some(state.readable(self.id, self.side)) } else { None };
        let writable = interest.is_writable() && state.writable(self.id, self.side);
        if matches!(readable, Some(Ok(()))) || writable {
            let ready = if writable { Ready::WRITABLE } else { Ready::EMPTY };
            return Poll::Ready(if matches!(readable, Some(Ok(()))) { ready | Ready::READABLE } else { ready });
        }
        if let Some(connection) = state.connections.get_mut(&self.id) {
            if interest.is_readable() {
                connection.directions[1 - self.side].wakers[0] = Some(context.waker().clone());
            }
            if interest.is_writable() {
                connection.directions[self.side].wakers[1] = Some(context.waker().clone());
            }
        }
        drop(state);
        if let Some(Err(NotReadable::At(due))) = readable {
            let waker = context.waker().clone();
            tokio::spawn(async move {
                tokio::time::sleep_until(due).await;
                waker.wake();
            });
        }
        Poll::Pending
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let mut state = self.net.lock();
        let Some(connection) = state.connections.get_mut(&self.id) else { return };
        connection.directions[self.side].closed = true;
        connection.directions[1 - self.side].reader_gone = true;
        let reader = connection.directions[self.side].wakers[0].take();
        let writer = connection.directions[1 - self.side].wakers[1].take();
        if connection.directions.iter().all(|direction| direction.closed) {
            state.connections.remove(&self.id);
        }
        drop(state);
        reader.into_iter().chain(writer).for_each(Waker::wake);
    }
}

impl PipeListener {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) async fn accept(&self) -> (Pipe, SocketAddr) {
        loop {
            let arrived = self.queue.arrived.notified();
            let next = self.queue.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            match next {
                Some(next) => return next,
                None => arrived.await,
            }
        }
    }
}

impl Drop for PipeListener {
    fn drop(&mut self) {
        let mut state = self.net.lock();
        if state.listeners.get(&self.address).is_some_and(|queue| Arc::ptr_eq(queue, &self.queue)) {
            state.listeners.remove(&self.address);
        }
        drop(state);
        // Dropping their ends tells the peers that wait to be accepted.
        let waiting = std::mem::take(&mut *self.queue.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        drop(waiting);
    }
}

fn pair(one: IpAddr, other: IpAddr) -> (IpAddr, IpAddr) {
    (one.min(other), one.max(other))
}
