//! Lets time pass, and carries bytes between the Distributor and the nodes.

use super::*;
use crate::registry::Rejection;

/// The address of all nodes.
const HOST: &str = "::ffff:10.0.0.1";

impl World {
    /// Lets time pass, and does everything that becomes due.
    pub(super) fn advance(&mut self, time: Duration) {
        let to = self.now + time;
        while self.now < to {
            // After the faults, longer steps are enough, and quicker.
            let step = if self.is_healing { 2 * TICK } else { TICK };
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
            self.ask();
            self.run_timers();
            self.deliver();
            self.publish();
            self.deliver();
            self.check();
        }
    }

    /// Connects the nodes whose time has come, and sends their registrations.
    pub(super) fn connect(&mut self) {
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
            node.replica.record_connect();
            node.offered = node.replica.revision().is_some() && !node.is_partial();
            node.asking.iter_mut().for_each(SimAsking::record_connect);
            let greet_at = self.now + Duration::from_millis(100);
            let mut connection = SimConnection {
                node: number,
                down: SimPipe::default(),
                up: SimPipe::default(),
                black_hole: None,
                outbox: Outbox::new(SessionId(id), greet_at, LEGACY_READ_BYTES, Some(Duration::ZERO)),
                follows: false,
                commands: CommandReader::new(),
                heard: self.distributor.as_ref().map_or(ActiveTime::ZERO, |it| it.registry.liveness.active_time()),
                frames: FrameDecoder::new(1 << 20),
                node_frames: FrameDecoder::new(1 << 20),
            };
            connection.up.send(&node.registration());
            self.connections.insert(id, connection);
        }
    }

    /// Acts as the Distributor's timer task: pings, verdicts, and actions that are due.
    pub(super) fn run_timers(&mut self) {
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
            connection.outbox.notify(NoticeKind::CopyRequest, out.freeze());
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

    /// Lets both ends write as much as fits, and delivers bytes under way in pieces.
    pub(super) fn deliver(&mut self) {
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        for id in ids {
            self.flush(id, false);
            self.deliver_up(id);
            self.flush(id, false);
            self.deliver_down(id);
        }
    }

    /// Writes the outbox into the connection, as the shell does with a socket that has this much
    /// room. `publishes` says that a publisher writes, and not the connection's own task.
    pub(super) fn flush(&mut self, id: u64, publishes: bool) {
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
            outbox.record_write(self.now, taken);
        };
    }

    /// Acts as the two publishers.
    pub(super) fn publish(&mut self) {
        for version in [Version::V1, Version::V2] {
            let Some(distributor) = &mut self.distributor else { return };
            if distributor.registry.defers_updates(version) {
                continue;
            }
            // Sometimes the publisher pauses, and changes merge.
            if !self.is_healing && self.rng.bool() {
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

    /// Bytes of a node arrive at the Distributor.
    pub(super) fn deliver_up(&mut self, id: u64) {
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

    /// Handles a packet from a node, as the shell does.
    pub(super) fn handle(&mut self, id: u64, frame: &[u8]) {
        let (Some(distributor), Some(connection)) = (&mut self.distributor, self.connections.get_mut(&id)) else {
            return;
        };
        let (registry, session) = (&mut distributor.registry, SessionId(id));
        match connection.commands.read(self.now, frame, &Config::default()) {
            Command::Register(registration, options) => {
                let version = connection.commands.version();
                let effects = registry.register_session(self.now, session, false, *registration, HOST, &options);
                let effects = effects.expect("no node is turned away");
                let outbox = &mut connection.outbox;
                let is_to_be_told = outbox.follow(version, effects.interests);
                outbox.take_packed(options.packed);
                if let Some(have) = effects.resume {
                    outbox.resume_from(have);
                }
                // A node that is told of other nodes from now on is told so at once.
                let followed = std::mem::replace(&mut connection.follows, true);
                outbox.is_behind |= followed && is_to_be_told && version == Version::V2;
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
                    connection.outbox.resend_list(self.now);
                }
            }
            Command::Need(key, routes) => {
                if let Err(rejection) = connection.outbox.answer_need(self.now, registry, HOST, &key, &routes) {
                    let mut out = BytesMut::new();
                    let Rejection { status, reason, message, retry_after } = &rejection;
                    write_refusal(&mut out, Some(&key), *status, reason, message, *retry_after);
                    connection.outbox.reply(Reply::Packet(out.freeze().into()), connection.commands.version());
                }
            }
            Command::Report(report) => drop(registry.report_failed(self.now, session, &report.failed)),
            Command::CopyPart => {
                let packet = Packet::parse(frame).expect("it was read before");
                if let Some(part) = read_copy(&packet) {
                    registry.restore_part(self.now, session, &part);
                }
            }
            Command::GetHistory(..) | Command::Ignore => {}
            strange => panic!("nodes send only correct packets: {strange:?}"),
        }
    }

    /// Bytes of the Distributor arrive at a node.
    pub(super) fn deliver_down(&mut self, id: u64) {
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

    /// Lets a node notice that its connection is gone, and plan the next one.
    pub(super) fn lose(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        if let Some(id) = node.connection.take() {
            node.replica.record_disconnect();
            let rank = node.replica.rank(&node.instance).unwrap_or(0.5);
            node.connect_at = self.now + Duration::from_secs(3).mul_f64(rank);
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.up.closed.get_or_insert(LeaveReason::Closed);
            }
        }
    }

    /// Ends a session at the Distributor, and then the node's end of its connection.
    pub(super) fn drop_session(&mut self, id: u64, reason: LeaveReason) {
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

    /// Ends the sessions whose entries newer sessions have taken over.
    pub(super) fn cut_superseded(&mut self) {
        while let Some(session) = self.distributor.as_mut().and_then(|it| it.registry.poll_superseded()) {
            self.drop_session(session.0, LeaveReason::Superseded);
        }
    }

    /// Breaks a connection: bytes under way are lost, and both ends find it closed.
    pub(super) fn cut(&mut self, connection: Option<u64>, reason: LeaveReason) {
        if let Some(connection) = connection.and_then(|id| self.connections.get_mut(&id)) {
            connection.up = SimPipe { closed: Some(reason), ..SimPipe::default() };
            connection.down = SimPipe { closed: Some(reason), ..SimPipe::default() };
        }
    }
}

impl SimPipe {
    /// Adds bytes, unless the sender has closed.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        if self.closed.is_none() {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// Takes all bytes under way, or a random part of them.
    pub(super) fn arrive(&mut self, rng: &mut Rng) -> BytesMut {
        if self.is_stalled || self.bytes.is_empty() {
            return BytesMut::new();
        }
        let max = self.bytes.len();
        let bytes = if rng.bool() { max } else { rng.usize(1..=max) };
        self.bytes.split_to(bytes)
    }

    /// Why the sender has closed, once all bytes have arrived.
    pub(super) fn ended(&self) -> Option<LeaveReason> {
        self.closed.filter(|_| self.bytes.is_empty() && !self.is_stalled)
    }
}
