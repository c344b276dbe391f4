//! A crowd that starts at once, with a Distributor and nodes of bounded speed: each packet and byte
//! takes time, so useless work delays everything after it. A loop that feeds itself never ends
//! here: nodes that are served too late give up, come back, and cost more.
//!
//! It must not open a socket or read a clock: time passes only as work is done.

mod nodes;

use std::collections::VecDeque;

use bytes::Bytes;
use protocol::write_refusal;

use super::*;
use crate::peer::outbox::{MAX_NEWCOMERS, WriteStep};
use crate::registry::{RegisterEffects, Rejection};
use crate::updates::lists::WaitReason;

/// Nodes that start at once: more than may register at once, and wait for a list.
const NODES: usize = 3000;
/// Bytes of a list, packed, for each of them: with random ids about 40.
const LIST_BYTES_EACH: usize = 50;
/// The cost of a packet to the Distributor, written or read, whatever its length, and the cost of a
/// new connection.
const PACKET_TIME: Duration = Duration::from_micros(20);
const CONNECTION_TIME: Duration = Duration::from_micros(100);
/// How long the Distributor takes to encode, or write, a byte: 20 MB/s, as on a machine that does
/// a lot else. All lists together take longer than a node waits for a sign of life.
const BYTE_TIME: Duration = Duration::from_nanos(50);
/// Bytes that a node reads in a millisecond.
const READ_BYTES: usize = 2000;
/// Bytes that the system holds for a connection.
const SOCKET_BYTES: usize = 16 * 1024;
/// When a node gives up a Distributor that says nothing, if it was not pinged.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(15);
/// The part of a packet that a node keeps: all of one that is not packed, and of others the state,
/// which stands first.
const KEPT_BYTES: usize = 20_000;
/// Sockets that the publisher writes to before others have a turn.
const WRITES_PER_SLICE: usize = 64;

struct Crowd {
    rng: Rng,
    start: Instant,
    now: Instant,
    /// How long after it has connected a node registers at most.
    late: Duration,
    registry: Registry,
    nodes: Vec<CrowdNode>,
    links: BTreeMap<u64, CrowdLink>,
    /// The work of the Distributor, in turn.
    ready: VecDeque<Task>,
    /// Links that wait for a packet that is made for one peer at a time, or for their turn.
    queue: VecDeque<u64>,
    /// When the first of them asks again.
    queue_at: Option<Instant>,
    publisher: CrowdPublisher,
    /// When the next tick is due; `None` while one waits for its turn.
    next_tick: Option<Instant>,
    next_link: u64,
    totals: Totals,
}

/// A task of the Distributor that can go on.
enum Task {
    Publisher,
    /// Pings, and verdicts.
    Timers,
    Link(u64),
}

#[derive(Default)]
struct CrowdPublisher {
    /// Followers that are still to be told in this round.
    round: VecDeque<u64>,
    is_ready: bool,
    /// Whether something has changed since the round began.
    is_wanted: bool,
    bytes: usize,
    worked: Duration,
    began: Option<Instant>,
    /// The time until which the publisher pauses.
    pause_until: Option<Instant>,
    published: Option<Revision>,
    new: Vec<u64>,
}

#[derive(Debug, Default)]
struct Totals {
    bytes: usize,
    connections: usize,
    registrations: usize,
    /// Verdicts on nodes, all of which are alive.
    verdicts: usize,
    /// The largest number of nodes that had registered and waited for a list at a time.
    unserved: usize,
    /// Bytes of lists for nodes that had not said anything yet.
    greeted: usize,
}

struct CrowdNode {
    link: Option<u64>,
    connect_at: Option<Instant>,
    register_at: Option<Instant>,
    silent_at: Instant,
    silence: Duration,
    known: Option<Revision>,
}

/// A connection, and its state in the shell.
struct CrowdLink {
    node: usize,
    up: VecDeque<Bytes>,
    down: VecDeque<Bytes>,
    down_bytes: usize,
    /// The beginning and the end of the packet that the node reads.
    reading: Vec<u8>,
    /// The last byte that it has read.
    last: u8,
    outbox: Outbox,
    commands: CommandReader,
    heard: ActiveTime,
    is_new: bool,
    follows: bool,
    is_ready: bool,
    is_queued: bool,
    /// Whether the connection waits for its socket to take more.
    is_full: bool,
}

/// What the end of a round of a link's task waits for.
enum Flow {
    Done,
    Full,
    Later(Instant),
}

#[test]
fn a_crowd_that_starts_at_once_is_served_once_each() {
    let mut crowd = Crowd::new(1, Duration::ZERO);
    crowd.run(Duration::from_secs(60));
    let Totals { bytes, connections, registrations, verdicts, unserved, greeted } = crowd.totals;
    let took = crowd.now - crowd.start;
    let seen = format!("{:?}, after {took:?}", crowd.totals);
    assert_eq!(connections, NODES, "no node gives up, or is cut: {seen}");
    assert_eq!(verdicts, 0, "no node is judged while it waits for us: {seen}");
    assert!(registrations <= 6 * NODES, "nodes that are turned away come back a few times: {seen}");
    assert!(unserved <= 2000, "admitted nodes come first: {seen}");
    assert_eq!(greeted, 0, "no node counts as silent: {seen}");
    assert!(bytes <= 2 * NODES * NODES * LIST_BYTES_EACH, "each is sent little twice: {seen}");
    let least = BYTE_TIME * u32::try_from(bytes).expect("it is some 100 MB");
    assert!(took <= 2 * least, "the Distributor does little in vain: {seen}");
}

#[test]
fn few_nodes_of_a_crowd_that_registers_late_are_greeted() {
    let mut crowd = Crowd::new(1, Duration::from_secs(1));
    crowd.run(Duration::from_secs(60));
    let lists = crowd.totals.greeted / LEGACY_READ_BYTES;
    assert!(lists < NODES / 20, "{lists} lists that no node has a use for: {:?}", crowd.totals);
}

impl Crowd {
    /// Nodes that connect at once, and register when up to `late` is over.
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn new(seed: u64, late: Duration) -> Self {
        let now = Instant::now();
        let nodes = (0..NODES).map(|_| CrowdNode {
            link: None,
            connect_at: Some(now),
            register_at: None,
            silent_at: now,
            silence: SILENCE_TIMEOUT,
            known: None,
        });
        Self {
            rng: Rng::with_seed(seed),
            start: now,
            now,
            late,
            registry: Registry::new(Config::default(), UpdateBudget::new(Config::default().max_unread_bytes), now, 1),
            nodes: nodes.collect(),
            links: BTreeMap::new(),
            ready: VecDeque::new(),
            queue: VecDeque::new(),
            queue_at: None,
            publisher: CrowdPublisher::default(),
            next_tick: Some(now),
            next_link: 0,
            totals: Totals::default(),
        }
    }

    /// Runs until all nodes know all.
    fn run(&mut self, max_time: Duration) {
        let mut next_step = self.now;
        while !self.is_complete() {
            assert!(self.now < self.start + max_time, "it does not end: {:?}", self.totals);
            // Nodes work in steps of a millisecond, and the Distributor takes as long as it takes.
            if self.now >= next_step || self.ready.is_empty() {
                let steps = (self.now.saturating_duration_since(next_step).as_millis() + 1).min(1000);
                self.now = self.now.max(next_step);
                next_step = self.now + Duration::from_millis(1);
                self.step_nodes(usize::try_from(steps).expect("they are few"));
                self.step_timers();
            }
            match self.ready.pop_front() {
                Some(Task::Publisher) => self.publish(),
                Some(Task::Timers) => self.tick(),
                Some(Task::Link(link)) => self.run_link(link),
                None => {}
            }
        }
    }

    fn is_complete(&self) -> bool {
        let newest = Some(self.registry.revision());
        self.registry.nodes() == NODES && self.nodes.iter().all(|node| node.known == newest)
    }

    /// Wakes the task of this link, which has something to do.
    fn wake(&mut self, id: u64) {
        if let Some(link) = self.links.get_mut(&id)
            && !std::mem::replace(&mut link.is_ready, true)
        {
            self.ready.push_back(Task::Link(id));
        }
    }

    fn wake_publisher(&mut self) {
        self.publisher.is_wanted = true;
        if self.publisher.pause_until.is_none() && !std::mem::replace(&mut self.publisher.is_ready, true) {
            self.ready.push_back(Task::Publisher);
        }
    }

    /// Carries out the next event that is due: a greeting, the head of the queue, the end of the
    /// publisher's pause, a ping or a verdict. It waits behind the work that is ready.
    fn step_timers(&mut self) {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= self.now);
        let greeted = self.links.iter().filter(|(_, link)| !link.is_ready && is_due(link.outbox.greet_at()));
        let greeted: Vec<u64> = greeted.map(|(id, _)| *id).collect();
        greeted.into_iter().for_each(|id| self.wake(id));
        if self.queue_at.take_if(|at| *at <= self.now).is_some()
            && let Some(first) = self.queue.front().copied()
        {
            self.wake(first);
        }
        if self.publisher.pause_until.take_if(|at| *at <= self.now).is_some() && self.publisher.is_wanted {
            self.wake_publisher();
        }
        if self.next_tick.take_if(|at| *at <= self.now).is_some() {
            self.ready.push_back(Task::Timers);
        }
    }

    /// Pings and judges peers, as in `shell/timers`.
    fn tick(&mut self) {
        self.next_tick = Some(self.now + self.registry.liveness.period());
        self.registry.run_due(self.now);
        let links = &self.links;
        let heard = |session: SessionId| match links.get(&session.0) {
            Some(link) if link.outbox.is_behind => ActiveTime::MAX,
            Some(link) => link.heard,
            None => ActiveTime::ZERO,
        };
        for (session, verdict) in self.registry.liveness.tick(self.now, heard) {
            let id = session.0;
            let Some(link) = self.links.get_mut(&id) else { continue };
            let is_behind = link.outbox.is_behind;
            match verdict {
                Verdict::Ping => {
                    link.outbox.ping();
                    let (flow, _) = self.flush(id, true);
                    if is_behind || !matches!(flow, Flow::Done) {
                        self.wake(id);
                    }
                }
                Verdict::Suspect | Verdict::Trust => self.totals.verdicts += 1,
                Verdict::Hung => {
                    self.totals.verdicts += 1;
                    self.cut(id);
                }
            }
            self.registry.apply_verdict(self.now, session, verdict);
        }
        self.wake_publisher();
    }

    /// Carries out one round of a link's task, as in `shell/connection/task`.
    fn run_link(&mut self, id: u64) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.is_ready = false;
        if std::mem::take(&mut link.is_new) {
            self.now += CONNECTION_TIME;
        }
        if link.outbox.greet_at().is_some_and(|at| at <= self.now) {
            self.handle_frames(id);
        }
        let (flow, _) = self.flush(id, false);
        self.handle_frames(id);
        let Some(link) = self.links.get_mut(&id) else { return };
        let was_first = self.queue.front() == Some(&id);
        match flow {
            Flow::Later(at) => {
                if !std::mem::replace(&mut link.is_queued, true) {
                    self.queue.push_back(id);
                }
                if self.queue.front() == Some(&id) {
                    self.queue_at = Some(at);
                }
            }
            Flow::Done | Flow::Full => {
                if std::mem::take(&mut link.is_queued) {
                    self.queue.retain(|queued| *queued != id);
                    if was_first && let Some(next) = self.queue.front().copied() {
                        self.wake(next);
                    }
                }
                let has_more =
                    self.links.get(&id).is_some_and(|link| link.outbox.owes_reply() || link.outbox.is_behind);
                if has_more && matches!(flow, Flow::Done) {
                    self.wake(id);
                }
            }
        }
    }

    /// Writes the outbox as far as the socket takes it, as `shell/session` does.
    fn flush(&mut self, id: u64, publishes: bool) -> (Flow, usize) {
        let Some(link) = self.links.get_mut(&id) else { return (Flow::Done, 0) };
        let outbox = &mut link.outbox;
        if publishes && (outbox.is_behind || outbox.owes_reply()) {
            return (Flow::Done, 0);
        }
        let with_lists = publishes || outbox.is_behind;
        let mut written = 0;
        let flow = loop {
            let packet = match outbox.next(self.now, &mut self.registry, with_lists) {
                WriteStep::Done => break Flow::Done,
                WriteStep::WaitFor(_) => break Flow::Later(self.now + Duration::from_millis(500)),
                WriteStep::Later(WaitReason::Pace(at) | WaitReason::Memory(at)) => break Flow::Later(at),
                WriteStep::Write(packet) => packet,
            };
            let taken = SOCKET_BYTES.saturating_sub(link.down_bytes).min(packet.len());
            if taken == 0 {
                outbox.blocked(self.now);
                link.is_full = true;
                break Flow::Full;
            }
            self.now += PACKET_TIME + BYTE_TIME * u32::try_from(taken).expect("a socket takes less");
            link.down.push_back(packet.slice(..taken));
            link.down_bytes += taken;
            outbox.record_write(self.now, taken);
            written += taken;
            if link.commands.version() == Version::V1 {
                self.totals.greeted += taken;
            }
        };
        outbox.is_behind = !matches!(flow, Flow::Done);
        if written > 0 && outbox.is_behind {
            link.heard = self.registry.liveness.active_time();
        }
        self.totals.bytes += written;
        (flow, written)
    }

    fn handle_frames(&mut self, id: u64) {
        while let Some(link) = self.links.get_mut(&id)
            && !link.outbox.owes_reply()
            && let Some(frame) = link.up.pop_front()
        {
            self.now += PACKET_TIME;
            link.heard = self.registry.liveness.active_time();
            match link.commands.read(self.now, &frame, &Config::default()) {
                Command::Register(registration, options) => self.accept(id, *registration, &options),
                Command::Acknowledge(_) => {}
                strange => panic!("nodes send only correct packets: {strange:?}"),
            }
        }
    }

    fn accept(&mut self, id: u64, registration: Registration, options: &RegisterOptions) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let session = SessionId(id);
        match self.registry.register_session(self.now, session, false, registration, "::ffff:10.0.0.1", options) {
            Ok(RegisterEffects { interests, .. }) => {
                link.outbox.follow(Version::V2, interests);
                link.outbox.take_packed(options.packed);
                if !std::mem::replace(&mut link.follows, true) {
                    link.outbox.is_behind = self.publisher.new.len() >= MAX_NEWCOMERS;
                    self.publisher.new.push(id);
                }
                let unserved = self.links.values().filter(|link| link.follows && link.outbox.last_sent().is_none());
                self.totals.unserved = self.totals.unserved.max(unserved.count());
                self.wake_publisher();
            }
            Err(refused) => {
                let Rejection { status, reason, message, retry_after } =
                    refused.rejection().expect("no session is cut");
                let mut out = BytesMut::new();
                write_refusal(&mut out, None, status, reason, &message, retry_after);
                link.outbox.reply(Reply::Packet(out.freeze().into()), Version::V2);
            }
        }
    }

    /// Carries out a slice of the publisher's round, as in `shell/publisher`.
    fn publish(&mut self) {
        self.publisher.is_ready = false;
        let begin = self.now;
        if self.publisher.round.is_empty() {
            self.publisher.is_wanted = false;
            let newest = self.registry.publish(Version::V2);
            let new = std::mem::take(&mut self.publisher.new);
            self.publisher.round = if self.publisher.published.replace(newest) == Some(newest) {
                new.into()
            } else {
                self.links.iter().filter(|(_, link)| link.follows).map(|(id, _)| *id).collect()
            };
            (self.publisher.bytes, self.publisher.worked, self.publisher.began) = (0, Duration::ZERO, Some(begin));
        }
        for _ in 0..WRITES_PER_SLICE {
            let Some(id) = self.publisher.round.pop_front() else { break };
            let (flow, written) = self.flush(id, true);
            self.publisher.bytes += written;
            if !matches!(flow, Flow::Done) {
                self.wake(id);
            }
        }
        self.publisher.worked += self.now - begin;
        if !self.publisher.round.is_empty() {
            return self.wake_publisher();
        }
        let pause = Duration::from_secs_f64(self.publisher.bytes as f64 / 256e6).max(self.publisher.worked * 3);
        let until = self.publisher.began.map_or(begin, |began| began + pause.min(Duration::from_millis(250)));
        self.publisher.pause_until = Some(until);
    }
}
