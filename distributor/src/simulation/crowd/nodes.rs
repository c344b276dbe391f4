//! The nodes of the crowd. They behave like a node of the SDK: they come back when they are told
//! to, and give up a Distributor that says nothing.

use protocol::{Ping, Response};

use super::*;

impl Crowd {
    /// Carries out the events of all nodes in some milliseconds.
    pub(super) fn step_nodes(&mut self, milliseconds: usize) {
        for number in 0..self.nodes.len() {
            let node = &mut self.nodes[number];
            if node.connect_at.take_if(|at| *at <= self.now).is_some() {
                self.connect(number);
            } else if let Some(id) = node.link {
                if node.register_at.take_if(|at| *at <= self.now).is_some() {
                    self.register(number, id);
                }
                self.read(number, id, READ_BYTES * milliseconds);
                if self.nodes[number].silent_at <= self.now {
                    self.cut(id);
                }
            }
        }
    }

    fn connect(&mut self, number: usize) {
        let id = self.next_link;
        self.next_link += 1;
        self.totals.connections += 1;
        let node = &mut self.nodes[number];
        (node.link, node.silence, node.silent_at) = (Some(id), SILENCE_TIMEOUT, self.now + SILENCE_TIMEOUT);
        let greet_at = self.now + Config::default().greet_after;
        let link = CrowdLink {
            node: number,
            up: VecDeque::new(),
            down: VecDeque::new(),
            down_bytes: 0,
            reading: Vec::new(),
            last: 0,
            outbox: Outbox::new(SessionId(id), greet_at, LEGACY_READ_BYTES, None),
            commands: CommandReader::new(),
            heard: self.registry.liveness.active_time(),
            is_new: true,
            follows: false,
            is_ready: false,
            is_queued: false,
            is_full: false,
        };
        self.links.insert(id, link);
        if self.late.is_zero() {
            return self.register(number, id);
        }
        let register_in = self.late.mul_f64(self.rng.f64());
        self.nodes[number].register_at = Some(self.now + register_in);
    }

    fn register(&mut self, number: usize, id: u64) {
        self.totals.registrations += 1;
        let instance = Rng::with_seed(number as u64).u128(..);
        let advert = Advert { id: Some(format!("{instance:032x}")), ..Advert::default() };
        let options = RegisterOptions { packed: true, ..RegisterOptions::default() };
        let mut out = BytesMut::new();
        let port = u16::try_from(number + 1).expect("there are thousands");
        write_registration(&mut out, &format!("n{number:05}"), port, &[], &advert, &options);
        self.send_up(id, &out.freeze());
    }

    fn send_up(&mut self, id: u64, packet: &Bytes) {
        if let Some(link) = self.links.get_mut(&id) {
            link.up.push_back(packet.slice(..packet.len() - 2));
        }
        self.wake(id);
    }

    /// Lets a node read, and react.
    fn read(&mut self, number: usize, id: u64, max_bytes: usize) {
        let mut room = max_bytes;
        while let Some(link) = self.links.get_mut(&id)
            && room > 0
            && let Some(piece) = link.down.front_mut()
        {
            let taken = piece.split_to(piece.len().min(room));
            if piece.is_empty() {
                link.down.pop_front();
            }
            room -= taken.len();
            link.down_bytes -= taken.len();
            self.nodes[number].silent_at = self.now + self.nodes[number].silence;
            let ends = taken.ends_with("¶".as_bytes()) || link.last == 0xC2 && taken[..] == [0xB6];
            link.last = taken.last().copied().unwrap_or_default();
            let kept = taken.len().min(KEPT_BYTES.saturating_sub(link.reading.len()));
            link.reading.extend_from_slice(&taken[..kept]);
            let was_full = std::mem::take(&mut link.is_full);
            if ends {
                let packet = std::mem::take(&mut link.reading);
                self.handle_at_node(number, id, &packet);
            }
            if was_full {
                self.wake(id);
            }
        }
    }

    fn handle_at_node(&mut self, number: usize, id: u64, frame: &[u8]) {
        let node = &mut self.nodes[number];
        let text = String::from_utf8_lossy(frame);
        // Of a list that is cut, the state is the last thing that can be read.
        let number_after = |name: &str| {
            let rest = text.rsplit_once(name)?.1;
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
        };
        if let Ok(packet) = Packet::parse(&frame[..frame.len() - 2]) {
            if packet.uri() == PING_URI {
                let every = Duration::from_millis(Ping::from_packet(&packet).every);
                node.silence = SILENCE_TIMEOUT.max(3 * every);
                node.silent_at = self.now + node.silence;
                let mut out = BytesMut::new();
                write_pong(&mut out, protocol::Pong { revision: node.known, digest: None });
                return self.send_up(id, &out.freeze());
            }
            let answer = Response::from_packet(&packet);
            if let Some(after) = answer.retry_after.filter(|_| answer.reason.as_deref() == Some("busy")) {
                node.register_at = Some(self.now + after + Duration::from_millis(self.rng.u64(0..50)));
                return;
            }
        }
        let revision = number_after("\"epoch\":").zip(number_after("\"rev\":"));
        if let Some((epoch, rev)) = revision {
            node.known = Some(Revision { epoch, rev });
        }
    }

    /// Ends the connection, after which the node comes back.
    pub(super) fn cut(&mut self, id: u64) {
        let Some(link) = self.links.remove(&id) else { return };
        self.registry.remove_session(self.now, SessionId(id), LeaveReason::Closed);
        self.queue.retain(|queued| *queued != id);
        let node = &mut self.nodes[link.node];
        (node.link, node.register_at) = (None, None);
        node.connect_at = Some(self.now + Duration::from_secs(3).mul_f64(self.rng.f64()));
    }
}
