//! The whole mesh in one thread, from one seed: real packets between the real roster and real replicas, over connections that
//! split, stall, break, and swallow what they carry; with nodes and Distributors that die and come back.
//!
//! `SIMULATION_HISTORIES=10000000 cargo test --release -p distributor simulation` runs more of them,
//! `SIMULATION_SEED=<n>` runs one again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use fastrand::Rng;
use protocol::{
    Advert, Digest, FrameDecoder, KnownNode, LEGACY_READ_BYTES, LeaveReason, ListUpdate, PING_URI, Packet,
    RegisterOptions, Registration, Replica, ResumePoint, Revision, UpdateOutcome, Version, is_copy_request, read_copy,
    write_copy, write_leave, write_list_request, write_pong, write_registration,
};

use crate::config::Config;
use crate::entries::SessionId;
use crate::peer::command::{Command, CommandReader};
use crate::peer::outbox::{Outbox, Reply, WriteStep};
use crate::registry::Registry;
use crate::registry::liveness::{ActiveTime, TICK, Verdict};
use crate::updates::budget::Budget;

/// Histories that a usual run of the tests goes through.
const HISTORIES: u64 = 100_000;
/// What happens to a mesh before it is left in peace.
const EVENTS: usize = 30;
/// In peace, everybody knows the truth after so long: a flapper's longest wait, and a reconnect.
const HEALED_AFTER: Duration = Duration::from_secs(60);
/// Peers that register what nodes do leave so long after: a flapper's longest wait is over by then.
const IMPOSTORS_STAY: Duration = Duration::from_secs(26);
/// When the system gives up a connection whose other end gives no sign of life.
const DEAD_AFTER: Duration = Duration::from_secs(4);
/// What one end of a connection takes before the other has read it.
const PIPE_BYTES: usize = 1500;

struct World {
    rng: Rng,
    now: Instant,
    epoch: u64,
    distributor: Option<SimDistributor>,
    nodes: Vec<SimNode>,
    connections: BTreeMap<u64, SimConnection>,
    next_connection: u64,
    next_instance: u64,
    /// Sessions of peers that are no nodes, and register what nodes do; and when the last of them goes.
    impostors: BTreeSet<u64>,
    impostors_go: Option<Instant>,
    peace: bool,
}

struct SimDistributor {
    registry: Registry,
    /// The state that was checked last.
    checked: Option<Revision>,
}

/// One connection with both of its ends.
struct SimConnection {
    node: usize,
    down: SimPipe,
    up: SimPipe,
    /// What either end sends vanishes, since then.
    black_hole: Option<Instant>,
    outbox: Outbox,
    commands: CommandReader,
    heard: ActiveTime,
    frames: FrameDecoder,
    node_frames: FrameDecoder,
}

/// Bytes under way.
#[derive(Default)]
struct SimPipe {
    bytes: BytesMut,
    /// Nothing arrives for now.
    is_stalled: bool,
    /// The sender has closed; the receiver finds out when it has read the rest.
    closed: Option<LeaveReason>,
}

struct SimNode {
    version: Version,
    name: String,
    port: u16,
    instance: String,
    draining: bool,
    is_up: bool,
    is_frozen: bool,
    connection: Option<u64>,
    connect_at: Instant,
    replica: Replica,
    /// What the changes that the replica names have made of nothing: calls are routed by such a table.
    table: BTreeMap<SocketAddr, KnownNode>,
    highest: Option<Revision>,
    /// It told this connection that it has a list.
    offered: bool,
    /// It hands over invented nodes when it is asked what it knows.
    lies: bool,
}

/// Where the nodes are that are invented.
const INVENTED: [u16; 2] = [666, 667];
/// Where peers are that register what nodes do.
const IMPOSTOR: u16 = 555;

impl World {
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn new(seed: u64) -> Self {
        let start = Instant::now();
        let mut world = Self {
            rng: Rng::with_seed(seed),
            now: start,
            epoch: 1000,
            distributor: None,
            nodes: Vec::new(),
            connections: BTreeMap::new(),
            next_connection: 0,
            next_instance: 0,
            impostors: BTreeSet::new(),
            impostors_go: None,
            peace: false,
        };
        for number in 0..world.rng.u16(2..6) {
            let version = if world.rng.u8(0..4) == 0 { Version::V1 } else { Version::V2 };
            let mut node = SimNode {
                version,
                name: format!("n{number}"),
                port: 1000 + number,
                instance: String::new(),
                draining: false,
                is_up: false,
                is_frozen: false,
                connection: None,
                connect_at: start,
                replica: Replica::default(),
                table: BTreeMap::new(),
                highest: None,
                offered: false,
                lies: version == Version::V2 && world.rng.u8(0..6) == 0,
            };
            node.start(&mut world.next_instance, start);
            world.nodes.push(node);
        }
        world.start_distributor();
        world
    }

    fn start_distributor(&mut self) {
        self.epoch += self.rng.u64(1..1000);
        let registry = Registry::new(Config::default(), Budget::new(usize::MAX), self.now, self.epoch);
        self.distributor = Some(SimDistributor { registry, checked: None });
    }

    fn run(&mut self) {
        for _ in 0..EVENTS {
            self.act();
            for _ in 0..self.rng.usize(0..4) {
                let ms = [1, 10, 60, 400][self.rng.usize(0..4)];
                let ms = self.rng.u64(1..=ms);
                self.advance(Duration::from_millis(ms));
            }
        }
        self.heal();
    }

    /// Something goes wrong, or right.
    fn act(&mut self) {
        let node = self.rng.usize(0..self.nodes.len());
        let connection = self.nodes[node].connection;
        match self.rng.u8(0..18) {
            0 | 1 => self.kill(node),
            2..=4 if !self.nodes[node].is_up => {
                let now = self.now;
                self.nodes[node].start(&mut self.next_instance, now);
            }
            5 => self.nodes[node].is_frozen = true,
            6 => self.nodes[node].is_frozen = false,
            7 => self.cut(connection, LeaveReason::Reset),
            8 => {
                if let Some(connection) = connection.and_then(|id| self.connections.get_mut(&id)) {
                    connection.black_hole.get_or_insert(self.now);
                    // The node finds out by itself, or has a new address: it comes again, while the old session lives on.
                    if self.rng.bool() {
                        self.nodes[node].connection = None;
                        self.nodes[node].replica.disconnected();
                        self.nodes[node].connect_at = self.now;
                    }
                }
            }
            9 | 10 => {
                if let Some(connection) = connection.and_then(|id| self.connections.get_mut(&id)) {
                    let stalls = self.rng.bool();
                    if self.rng.bool() {
                        connection.down.is_stalled = stalls
                    } else {
                        connection.up.is_stalled = stalls
                    }
                }
            }
            11 => self.update(node),
            12 => self.leave(node),
            13 if self.rng.u8(0..3) == 0 => self.kill_distributor(),
            16 => {
                for _ in 0..self.rng.u8(1..5) {
                    self.impersonate(node, true);
                }
            }
            17 => self.impersonate(node, false),
            14 => drop(self.distributor.is_none().then(|| self.start_distributor())),
            _ => {}
        }
    }

    /// A peer registers a node's instance as its own, and leaves at once or stays.
    fn impersonate(&mut self, number: usize, leaves: bool) {
        let Some(distributor) = &mut self.distributor else { return };
        let SimNode { name, instance, .. } = &self.nodes[number];
        let params = format!(r#"{{"port":{IMPOSTOR},"name":"{name}","$":{{"id":"{instance}"}}}}"#);
        let params = serde_json::from_str(&params).expect("it is JSON");
        let registration = Registration::parse(Some(params), &Config::default().registration).expect("it is sound");
        let (id, host) = (self.next_connection, "::ffff:10.0.0.1");
        self.next_connection += 1;
        let _ = distributor.registry.register(self.now, SessionId(id), registration, host, &RegisterOptions::default());
        self.impostors.insert(id);
        self.cut_superseded();
        if leaves {
            self.drop_session(id, LeaveReason::Closed);
        }
    }

    /// Nothing goes wrong any more, and after a bounded time everybody knows the truth.
    fn heal(&mut self) {
        self.peace = true;
        if self.distributor.is_none() {
            self.start_distributor();
        }
        self.nodes.iter_mut().for_each(|node| node.is_frozen = false);
        for connection in self.connections.values_mut() {
            connection.down.is_stalled = false;
            connection.up.is_stalled = false;
        }
        self.impostors_go = Some(self.now + IMPOSTORS_STAY);
        let until = self.now + HEALED_AFTER;
        while !self.is_true() {
            assert!(self.now < until, "not healed after {HEALED_AFTER:?}: {}", self.describe());
            self.advance(2 * TICK);
        }
    }

    fn is_true(&self) -> bool {
        let up: BTreeSet<u16> = self.nodes.iter().filter(|node| node.is_up).map(|node| node.port).collect();
        self.nodes
            .iter()
            .filter(|node| node.is_up)
            // Whoever claims to know what it does not is not told of it.
            .all(|node| node.connection.is_some() && (node.lies || node.ports() == up && !node.replica.is_warming()))
    }

    fn describe(&self) -> String {
        let nodes: Vec<_> = self
            .nodes
            .iter()
            .map(|node| {
                let (name, up, connected) = (&node.name, node.is_up, node.connection.is_some());
                format!("{name} {:?} up {up} connected {connected} knows {:?}", node.version, node.ports())
            })
            .collect();
        nodes.join("; ")
    }

    /// Time passes, and whatever it brings.
    fn advance(&mut self, time: Duration) {
        let to = self.now + time;
        while self.now < to {
            // In peace time only has to pass.
            let step = if self.peace { 2 * TICK } else { TICK };
            self.now = to.min(self.now + step);
            for node in &mut self.nodes {
                if node.replica.expire(self.now) {
                    node.follow();
                }
            }
            if self.impostors_go.is_some_and(|at| at <= self.now) {
                let impostors = self.impostors.clone();
                impostors.into_iter().for_each(|id| self.drop_session(id, LeaveReason::Closed));
            }
            self.connect();
            self.run_timers();
            self.deliver();
            self.publish();
            self.deliver();
            self.check();
        }
    }

    fn connect(&mut self) {
        for number in 0..self.nodes.len() {
            let node = &mut self.nodes[number];
            if !node.is_up || node.is_frozen || node.connection.is_some() || node.connect_at > self.now {
                continue;
            }
            node.connect_at = self.now + Duration::from_secs(3);
            if self.distributor.is_none() {
                continue;
            }
            let id = self.next_connection;
            self.next_connection += 1;
            node.connection = Some(id);
            node.replica.connected();
            node.offered = node.replica.revision().is_some();
            let greet_at = self.now + Duration::from_millis(100);
            let mut connection = SimConnection {
                node: number,
                down: SimPipe::default(),
                up: SimPipe::default(),
                black_hole: None,
                outbox: Outbox::new(greet_at, LEGACY_READ_BYTES, Some(Duration::ZERO)),
                commands: CommandReader::new(),
                heard: self.distributor.as_ref().map_or(ActiveTime::ZERO, |it| it.registry.liveness.active_time()),
                frames: FrameDecoder::new(1 << 20),
                node_frames: FrameDecoder::new(1 << 20),
            };
            connection.up.send(&node.registration());
            self.connections.insert(id, connection);
        }
    }

    fn run_timers(&mut self) {
        let Some(distributor) = &mut self.distributor else { return };
        let turn = distributor.registry.run_due(self.now);
        let connections = &self.connections;
        let active_time = distributor.registry.liveness.active_time();
        let impostors = &self.impostors;
        let heard = |session: SessionId| match connections.get(&session.0) {
            Some(connection) => connection.heard,
            None if impostors.contains(&session.0) => active_time + TICK,
            None => ActiveTime::ZERO,
        };
        let verdicts = distributor.registry.liveness.tick(self.now, heard);
        if let Some(connection) = turn.copy_from.and_then(|session| self.connections.get_mut(&session.0)) {
            let mut out = BytesMut::new();
            protocol::write_copy_request(&mut out);
            connection.outbox.notify(out.freeze());
        }
        let mut hung = Vec::new();
        for (session, verdict) in verdicts {
            if self.impostors.contains(&session.0) {
                distributor.registry.apply_verdict(self.now, session, verdict);
            }
            let Some(connection) = self.connections.get_mut(&session.0) else { continue };
            distributor.registry.apply_verdict(self.now, session, verdict);
            match verdict {
                Verdict::Ping => connection.outbox.ping(),
                Verdict::Suspect | Verdict::Trust => {}
                Verdict::Hung => hung.push(session.0),
            }
        }
        for id in hung {
            self.drop_session(id, LeaveReason::Hung);
        }
        self.cut_superseded();
        let is_dead =
            |connection: &SimConnection| connection.black_hole.is_some_and(|since| self.now >= since + DEAD_AFTER);
        let dead: Vec<u64> = self.connections.iter().filter(|(_, it)| is_dead(it)).map(|(id, _)| *id).collect();
        for id in dead {
            self.drop_session(id, LeaveReason::Unreachable);
        }
    }

    /// Both ends write what they can, and what is under way arrives in pieces.
    fn deliver(&mut self) {
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        for id in ids {
            self.flush(id, false);
            self.deliver_up(id);
            self.flush(id, false);
            self.deliver_down(id);
        }
    }

    /// What the shell does with an outbox and a socket that takes so much.
    fn flush(&mut self, id: u64, publishes: bool) {
        let (Some(distributor), Some(connection)) = (&mut self.distributor, self.connections.get_mut(&id)) else {
            return;
        };
        let outbox = &mut connection.outbox;
        if publishes && (outbox.is_behind || outbox.owes_reply()) {
            return;
        }
        let with_lists = publishes || outbox.is_behind;
        outbox.is_behind = loop {
            let packet = match outbox.next(self.now, &mut distributor.registry, with_lists) {
                WriteStep::Done => break false,
                WriteStep::WaitFor(_) | WriteStep::Later(_) => break true,
                WriteStep::Write(packet) => packet,
            };
            let room = PIPE_BYTES.saturating_sub(connection.down.bytes.len());
            let taken = room.min(packet.len());
            if taken == 0 {
                outbox.blocked(self.now);
                break true;
            }
            if connection.black_hole.is_none() {
                connection.down.send(&packet[..taken]);
            }
            outbox.wrote(self.now, taken);
        };
    }

    fn publish(&mut self) {
        for version in [Version::V1, Version::V2] {
            let Some(distributor) = &mut self.distributor else { return };
            if distributor.registry.defers_updates(version) {
                continue;
            }
            // Sometimes the publisher rests, and changes merge.
            if !self.peace && self.rng.bool() {
                continue;
            }
            distributor.registry.publish(version);
            let is_told = |connection: &SimConnection| self.nodes[connection.node].version == version;
            let told = self.connections.iter().filter(|(_, connection)| is_told(connection));
            let told: Vec<u64> = told.map(|(id, _)| *id).collect();
            for id in told {
                self.flush(id, true);
            }
        }
    }

    fn deliver_up(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Some(distributor) = &self.distributor else { return };
        let bytes = connection.up.arrive(&mut self.rng);
        if bytes.is_empty() || connection.black_hole.is_some() {
            if let Some(reason) = connection.up.ended() {
                self.drop_session(id, reason);
            }
            return;
        }
        connection.heard = distributor.registry.liveness.active_time();
        connection.frames.buffer().extend_from_slice(&bytes);
        while let Some(connection) = self.connections.get_mut(&id)
            && !connection.outbox.owes_reply()
            && let Some(frame) = connection.frames.next_frame().expect("no frame is large")
        {
            self.handle(id, &frame);
        }
    }

    /// What the shell does with a packet from a node.
    fn handle(&mut self, id: u64, frame: &[u8]) {
        let (Some(distributor), Some(connection)) = (&mut self.distributor, self.connections.get_mut(&id)) else {
            return;
        };
        let (registry, session) = (&mut distributor.registry, SessionId(id));
        match connection.commands.read(self.now, frame, &Config::default()) {
            Command::Register(registration, terms) => {
                let version = connection.commands.version();
                connection.outbox.follow(version, None);
                if let Some(have) = terms.resume.filter(|have| registry.can_resume_from(*have)) {
                    connection.outbox.resume_from(have);
                }
                let _admission = registry.register(self.now, session, *registration, "::ffff:10.0.0.1", &terms);
                self.cut_superseded();
            }
            Command::GetList(key) => connection.outbox.reply(Reply::List(key), connection.commands.version()),
            Command::Leave => {
                connection.outbox.unfollow();
                registry.remove_session(self.now, session, LeaveReason::Leave);
            }
            Command::Acknowledge(pong) => {
                if let Some(known) = pong.revision
                    && registry.acknowledge(session, known, pong.digest)
                {
                    connection.outbox.may_resend(self.now);
                }
            }
            Command::Report(failed) => drop(registry.report_failed(self.now, session, &failed)),
            Command::CopyPart => {
                let packet = Packet::parse(frame).expect("it was read before");
                if let Some(part) = read_copy(&packet) {
                    registry.restore_part(self.now, session, &part);
                }
            }
            Command::GetHistory(..) | Command::Ignore => {}
            strange => panic!("nodes send nothing that is wrong: {strange:?}"),
        }
    }

    fn deliver_down(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let number = connection.node;
        let node = &mut self.nodes[number];
        if node.connection != Some(id) || node.is_frozen || connection.black_hole.is_some() {
            return;
        }
        let bytes = connection.down.arrive(&mut self.rng);
        if bytes.is_empty() {
            if connection.down.ended().is_some() {
                self.lose(number);
            }
            return;
        }
        connection.node_frames.buffer().extend_from_slice(&bytes);
        while let Some(frame) = connection.node_frames.next_frame().expect("no frame is large") {
            let answer = node.handle(self.now, &frame);
            connection.up.send(&answer);
        }
    }

    /// The node finds that its connection is gone.
    fn lose(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        if let Some(id) = node.connection.take() {
            node.replica.disconnected();
            let rank = node.replica.rank(&node.instance).unwrap_or(0.5);
            node.connect_at = self.now + Duration::from_secs(3).mul_f64(rank);
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.up.closed.get_or_insert(LeaveReason::Closed);
            }
        }
    }

    /// The Distributor's end of a connection ends, and then the node's.
    fn drop_session(&mut self, id: u64, reason: LeaveReason) {
        if let Some(distributor) = &mut self.distributor {
            distributor.registry.remove_session(self.now, SessionId(id), reason);
        }
        self.impostors.remove(&id);
        if let Some(connection) = self.connections.remove(&id)
            && self.nodes[connection.node].connection == Some(id)
        {
            self.lose(connection.node);
        }
    }

    fn cut_superseded(&mut self) {
        while let Some(session) = self.distributor.as_mut().and_then(|it| it.registry.poll_superseded()) {
            self.drop_session(session.0, LeaveReason::Superseded);
        }
    }

    /// A connection breaks in the middle: what is under way is lost.
    fn cut(&mut self, connection: Option<u64>, reason: LeaveReason) {
        if let Some(connection) = connection.and_then(|id| self.connections.get_mut(&id)) {
            connection.up = SimPipe { closed: Some(reason), ..SimPipe::default() };
            connection.down = SimPipe { closed: Some(reason), ..SimPipe::default() };
        }
    }

    fn kill(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        node.is_up = false;
        if let Some(id) = node.connection.take()
            && let Some(connection) = self.connections.get_mut(&id)
        {
            connection.up.closed = Some(LeaveReason::Closed);
        }
    }

    fn leave(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        if node.version == Version::V2
            && node.is_up
            && let Some(connection) = node.connection.and_then(|id| self.connections.get_mut(&id))
        {
            let mut out = BytesMut::new();
            write_leave(&mut out);
            connection.up.send(&out);
        }
        self.kill(number);
    }

    fn update(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        node.draining = !node.draining;
        if node.is_up
            && let Some(connection) = node.connection.and_then(|id| self.connections.get_mut(&id))
        {
            connection.up.send(&node.registration());
        }
    }

    fn kill_distributor(&mut self) {
        self.distributor = None;
        self.impostors.clear();
        let connections = std::mem::take(&mut self.connections);
        for (id, connection) in connections {
            if self.nodes[connection.node].connection == Some(id) {
                self.lose(connection.node);
            }
        }
    }

    /// What holds at every moment.
    fn check(&mut self) {
        let Some(distributor) = &mut self.distributor else { return };
        let revision = Some(distributor.registry.revision());
        if std::mem::replace(&mut distributor.checked, revision) != revision {
            let entries: Vec<_> = distributor.registry.entries().collect();
            let instances: BTreeSet<_> = entries.iter().filter_map(|record| record.instance.as_deref()).collect();
            let named = entries.iter().filter(|record| record.instance.is_some()).count();
            assert_eq!(instances.len(), named, "S1: an instance is listed once");
            let known = |name: &str| self.nodes.iter().any(|node| node.name == name);
            let mut confirmed = entries.iter().filter(|record| record.is_confirmed);
            assert!(confirmed.all(|record| known(&record.name)), "S5: who has not registered is not listed");
        }
        for connection in self.connections.values() {
            assert!(connection.down.bytes.len() <= PIPE_BYTES, "S4: nothing is queued beyond what the socket takes");
        }
    }
}

impl SimPipe {
    /// Nothing follows an end.
    fn send(&mut self, bytes: &[u8]) {
        if self.closed.is_none() {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// Some of the bytes under way.
    fn arrive(&mut self, rng: &mut Rng) -> BytesMut {
        if self.is_stalled || self.bytes.is_empty() {
            return BytesMut::new();
        }
        let most = self.bytes.len();
        let bytes = if rng.bool() { most } else { rng.usize(1..=most) };
        self.bytes.split_to(bytes)
    }

    fn ended(&self) -> Option<LeaveReason> {
        self.closed.filter(|_| self.bytes.is_empty() && !self.is_stalled)
    }
}

impl SimNode {
    /// A new process: it knows nothing, and listens where the one before did.
    fn start(&mut self, next_instance: &mut u64, now: Instant) {
        *next_instance += 1;
        self.instance = format!("i{next_instance}");
        (self.is_up, self.is_frozen, self.draining) = (true, false, false);
        (self.replica, self.highest, self.connection) = (Replica::default(), None, None);
        self.table.clear();
        self.connect_at = now;
    }

    fn ports(&self) -> BTreeSet<u16> {
        self.replica.nodes().iter().map(|known| known.address.port()).collect()
    }

    fn addresses(&self) -> BTreeSet<SocketAddr> {
        self.replica.nodes().iter().map(|known| known.address).collect()
    }

    fn registration(&self) -> Vec<u8> {
        let Self { name, port, .. } = self;
        match self.version {
            Version::V1 => format!(
                r#"{{"uri":"/distributes","method":"POST","key":0,"params":{{"port":{port},"name":"{name}","urls":[],"x":{}}}}}¶"#,
                self.draining
            )
            .into_bytes(),
            Version::V2 => {
                let advert =
                    Advert { id: Some(self.instance.clone()), draining: self.draining, ..Advert::default() };
                let mut have =
                    self.replica.revision().map(|revision| ResumePoint { revision, digest: Some(self.replica.digest()) });
                if self.lies {
                    have = Some(self.lie().0);
                }
                let terms = RegisterOptions { resume: have, ..RegisterOptions::default() };
                let mut out = BytesMut::new();
                write_registration(&mut out, name, *port, &[], &advert, &terms);
                out.to_vec()
            }
        }
    }

    /// A list with nodes that there are not: one that is new, and one in the place of each that there is, the state it claims to be,
    /// and its digest.
    fn lie(&self) -> (ResumePoint, Vec<(u64, String)>) {
        let entry = |port: u16, name: &str, id: &str| {
            format!(r#"{{"port":{port},"name":"{name}","urls":[],"host":"::ffff:10.0.0.1","$":{{"v":2,"id":"{id}"}}}}"#)
        };
        let known = self.replica.entries().map(|(id, text)| {
            let instance = text.split(r#""id":""#).nth(1).and_then(|rest| rest.split('"').next()).unwrap_or("none");
            (id, entry(INVENTED[0], "invented", instance))
        });
        let mut entries: Vec<_> = known.collect();
        entries.push((1 << 20, entry(INVENTED[1], "invented", "invented")));
        let mut digest = Digest::default();
        entries.iter().for_each(|(id, entry)| digest.add(*id, entry));
        let known = self.replica.revision().unwrap_or(Revision { epoch: 1000, rev: 0 });
        (ResumePoint { revision: Revision { rev: known.rev + 1, ..known }, digest: Some(digest) }, entries)
    }

    /// Carries out what the replica says has changed.
    fn follow(&mut self) {
        for (address, known) in self.replica.last_changes() {
            match known {
                Some(known) => drop(self.table.insert(address, known)),
                None => drop(self.table.remove(&address)),
            }
        }
        assert!(self.table.values().eq(&self.replica.nodes()), "S9: changes lead to what there is");
        assert!(INVENTED.iter().all(|port| !self.ports().contains(port)), "S10: nobody is told what was invented");
    }

    /// Takes a packet in, as the real node does; what it answers.
    fn handle(&mut self, now: Instant, frame: &[u8]) -> Vec<u8> {
        let packet = Packet::parse(frame).expect("S3: nothing unreadable is sent");
        let mut out = BytesMut::new();
        if self.version == Version::V1 {
            assert!(packet.meta.is_none(), "S3: a version 1 node is never sent what it does not know");
            assert!(frame.len() <= LEGACY_READ_BYTES);
        }
        if packet.uri() == PING_URI {
            write_pong(&mut out, self.replica.pong(true));
            return out.to_vec();
        }
        if is_copy_request(&packet) {
            if self.lies {
                let (have, entries) = self.lie();
                let entries = entries.iter().map(|(id, entry)| (*id, entry.as_str()));
                write_copy(&mut out, have.revision, have.digest.unwrap_or_default(), entries);
            } else if let Some(revision) = self.replica.revision() {
                write_copy(&mut out, revision, self.replica.digest(), self.replica.entries());
            }
            return out.to_vec();
        }
        let news = ListUpdate::parse(&packet).expect("S3: nothing unreadable is sent");
        // An entry that is replaced may be at another address then: whoever took an instance over was there.
        let replaced: BTreeSet<u64> = match &news {
            ListUpdate::Delta(delta) => delta.joined.iter().map(|(id, _)| *id).collect(),
            ListUpdate::Snapshot(_) => BTreeSet::new(),
        };
        let stays = |known: &&KnownNode| known.ids.iter().all(|id| !replaced.contains(id));
        let nodes = self.replica.nodes();
        let before: BTreeSet<_> = nodes.iter().filter(stays).map(|known| known.address).collect();
        let leaves = matches!(&news, ListUpdate::Delta(delta) if !delta.left.is_empty());
        let outcome = self.replica.apply(now, &news);
        if outcome == UpdateOutcome::Gap {
            // It was greeted in the form of version 1, and no longer has what it said it had.
            let lost = self.offered && self.replica.revision().is_none();
            assert!(lost || self.lies, "S2: {outcome:?} of {news:?}");
            write_list_request(&mut out, 1);
            return out.to_vec();
        }
        assert!(matches!(outcome, UpdateOutcome::Changed | UpdateOutcome::Same), "S2: {outcome:?} of {news:?}");
        if self.replica.is_warming() && !leaves {
            assert!(self.addresses().is_superset(&before), "S8: nobody goes while the SimDistributor warms up");
        }
        if outcome == UpdateOutcome::Changed {
            self.follow();
        }
        let known = self.replica.revision().or(self.highest);
        assert!(known >= self.highest || self.version == Version::V1, "S2: {known:?} after {:?}", self.highest);
        self.highest = known;
        Vec::new()
    }
}

fn histories() -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match number("SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIMULATION_HISTORIES").unwrap_or(HISTORIES),
    }
}

#[test]
#[expect(clippy::print_stderr, reason = "a failing history names itself")]
fn whatever_happens_everybody_knows_the_truth_in_the_end() {
    let histories = histories();
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let mine = histories.clone().filter(move |seed| seed % threads == thread);
            scope.spawn(move || {
                for seed in mine {
                    let failed = std::panic::catch_unwind(|| World::new(seed).run());
                    if let Err(panic) = failed {
                        eprintln!("history {seed} fails: SIMULATION_SEED={seed} cargo test -p distributor simulation");
                        std::panic::resume_unwind(panic);
                    }
                }
            });
        }
    });
}
