//! Runs one history: random faults, and then a time without faults.

use super::*;

impl World {
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    pub(super) fn new(seed: u64) -> Self {
        let start = Instant::now();
        let mut rng = Rng::with_seed(seed);
        let mut world = Self {
            config: asking::config(&mut rng),
            rng,
            now: start,
            epoch: 1000,
            distributor: None,
            nodes: Vec::new(),
            connections: BTreeMap::new(),
            next_connection: 0,
            next_instance: 0,
            impostors: BTreeSet::new(),
            impostors_go: None,
            is_healing: false,
        };
        for number in 0..world.rng.u16(2..6) {
            let version = if world.rng.u8(0..4) == 0 { Version::V1 } else { Version::V2 };
            let lies = version == Version::V2 && world.rng.u8(0..6) == 0;
            let asks = version == Version::V2 && !lies && world.rng.bool();
            let mut node = SimNode {
                version,
                name: format!("n{number}"),
                port: 1000 + number,
                instance: String::new(),
                urls: asking::urls(&mut world.rng),
                asking: asks.then(SimAsking::default),
                is_draining: false,
                is_up: false,
                is_frozen: false,
                connection: None,
                connect_at: start,
                replica: Replica::default(),
                table: BTreeMap::new(),
                highest: None,
                offered: false,
                lies,
            };
            node.start(&mut world.next_instance, start, false);
            world.nodes.push(node);
        }
        world.start_distributor();
        world
    }

    pub(super) fn start_distributor(&mut self) {
        self.epoch += self.rng.u64(1..1000);
        let registry = Registry::new(self.config.clone(), UpdateBudget::new(usize::MAX), self.now, self.epoch);
        self.distributor = Some(SimDistributor { registry, checked: None });
    }

    /// Runs the history to its end.
    pub(super) fn run(&mut self) {
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

    /// Makes one random event happen: something fails, or recovers.
    pub(super) fn act(&mut self) {
        let node = self.rng.usize(0..self.nodes.len());
        let connection = self.nodes[node].connection;
        match self.rng.u8(0..22) {
            0 | 1 => self.kill(node),
            2..=4 if !self.nodes[node].is_up => {
                let now = self.now;
                let has_cache = self.nodes[node].asking.is_some() && self.rng.bool();
                self.nodes[node].start(&mut self.next_instance, now, has_cache);
            }
            5 => self.nodes[node].is_frozen = true,
            6 => self.nodes[node].is_frozen = false,
            7 => self.cut(connection, LeaveReason::Reset),
            8 => {
                if let Some(connection) = connection.and_then(|id| self.connections.get_mut(&id)) {
                    connection.black_hole.get_or_insert(self.now);
                    // Sometimes the node notices at once, or gets a new address. It then connects
                    // again while the Distributor still has its old session.
                    if self.rng.bool() {
                        self.nodes[node].connection = None;
                        self.nodes[node].replica.record_disconnect();
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
            18..=20 => self.use_route(node),
            21 => self.forget_url(node),
            14 => drop(self.distributor.is_none().then(|| self.start_distributor())),
            _ => {}
        }
    }

    /// Lets an impersonator register with a node's instance id, and leave at once or stay.
    pub(super) fn impersonate(&mut self, number: usize, leaves: bool) {
        let Some(distributor) = &mut self.distributor else { return };
        let SimNode { name, instance, .. } = &self.nodes[number];
        let params = format!(r#"{{"port":{IMPOSTOR},"name":"{name}","$":{{"id":"{instance}"}}}}"#);
        let params = serde_json::from_str(&params).expect("it is JSON");
        let registration =
            Registration::parse(Some(params), &Config::default().registration_limits()).expect("it is sound");
        let (id, host) = (self.next_connection, "::ffff:10.0.0.1");
        self.next_connection += 1;
        let _ = distributor.registry.admit(self.now, SessionId(id), registration, host, &RegisterOptions::default());
        self.impostors.insert(id);
        self.cut_superseded();
        if leaves {
            self.drop_session(id, LeaveReason::Closed);
        }
    }

    /// Ends all faults. All nodes must then know the truth within [`HEALED_AFTER`].
    pub(super) fn heal(&mut self) {
        self.is_healing = true;
        if self.distributor.is_none() {
            self.start_distributor();
        }
        self.nodes.iter_mut().for_each(|node| node.is_frozen = false);
        for connection in self.connections.values_mut() {
            connection.down.is_stalled = false;
            connection.up.is_stalled = false;
        }
        self.impostors_go = Some(self.now + IMPOSTOR_STAY_TIME);
        let until = self.now + HEALED_AFTER;
        while !self.all_know_the_truth() {
            assert!(self.now < until, "not healed after {HEALED_AFTER:?}: {}", self.describe());
            self.advance(2 * TICK);
        }
    }

    /// Lets the process of a node die.
    pub(super) fn kill(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        node.is_up = false;
        if let Some(id) = node.connection.take()
            && let Some(connection) = self.connections.get_mut(&id)
        {
            connection.up.closed = Some(LeaveReason::Closed);
        }
    }

    /// Lets a node leave in order; one of version 1 can only die.
    pub(super) fn leave(&mut self, number: usize) {
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

    /// Lets a node change its registration.
    pub(super) fn update(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        if self.rng.bool() {
            node.is_draining = !node.is_draining;
        } else {
            node.urls = asking::urls(&mut self.rng);
        }
        self.register_again(number);
    }

    /// Lets the process of the Distributor die.
    pub(super) fn kill_distributor(&mut self) {
        self.distributor = None;
        self.impostors.clear();
        let connections = std::mem::take(&mut self.connections);
        for (id, connection) in connections {
            if self.nodes[connection.node].connection == Some(id) {
                self.lose(connection.node);
            }
        }
    }
}
