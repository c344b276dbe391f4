//! A simulated node: a real replica that reads and writes real packets.

use super::*;

impl SimNode {
    /// Starts a new process of this node, which has its predecessor's port. It knows nothing, or
    /// what its predecessor has left in a cache file.
    pub(super) fn start(&mut self, next_instance: &mut u64, now: Instant, has_cache: bool) {
        *next_instance += 1;
        self.instance = format!("i{next_instance}");
        (self.is_up, self.is_frozen, self.is_draining) = (true, false, false);
        let seed = self.replica.revision().filter(|_| has_cache);
        let seeded = seed.map(|revision| Replica::seeded(revision, self.replica.entries()));
        (self.highest, self.connection) = (None, None);
        self.asking = self.asking.take().map(|asking| match seeded {
            Some(_) => asking.cached(),
            None => SimAsking::default(),
        });
        self.replica = seeded.unwrap_or_default();
        self.table.clear();
        self.follow();
        self.connect_at = now;
    }

    /// Whether it has a partial view.
    pub(super) fn is_partial(&self) -> bool {
        self.asking.as_ref().is_some_and(|asking| asking.is_partial)
    }

    pub(super) fn ports(&self) -> BTreeSet<u16> {
        self.replica.nodes().iter().map(|known| known.address.port()).collect()
    }

    pub(super) fn addresses(&self) -> BTreeSet<SocketAddr> {
        self.replica.nodes().iter().map(|known| known.address).collect()
    }

    pub(super) fn registration(&mut self) -> Vec<u8> {
        self.asking.iter_mut().for_each(SimAsking::record_registration);
        let Self { name, port, urls, .. } = &*self;
        match self.version {
            Version::V1 => format!(
                r#"{{"uri":"/distributes","method":"POST","key":0,"params":{{"port":{port},"name":"{name}","urls":{urls:?},"x":{}}}}}¶"#,
                self.is_draining
            )
            .into_bytes(),
            Version::V2 => {
                let advert =
                    Advert { id: Some(self.instance.clone()), draining: self.is_draining, ..Advert::default() };
                // A part is not a base for the changes to all.
                let have = self.replica.revision().filter(|_| !self.is_partial());
                let mut have = have.map(|revision| ResumePoint { revision, digest: Some(self.replica.digest()) });
                if self.lies {
                    have = Some(self.lie().0);
                }
                let uses = self.asking.as_ref().map(|asking| asking.uses.iter().cloned().collect());
                let options =
                    RegisterOptions { resume: have, uses, part: self.is_partial(), ..RegisterOptions::default() };
                let routes: Vec<_> = urls.iter().map(|url| Route::parse(url).expect("it is a route")).collect();
                let mut out = BytesMut::new();
                write_registration(&mut out, name, *port, &routes, &advert, &options);
                out.to_vec()
            }
        }
    }

    /// The list of a lying node: an invented node in place of each real one, and one more. Returns
    /// the revision and digest that it claims, and the entries.
    pub(super) fn lie(&self) -> (ResumePoint, Vec<(u64, String)>) {
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

    /// Applies the changes that the replica reports to the table, and checks the table.
    pub(super) fn follow(&mut self) {
        for (address, known) in self.replica.last_changes() {
            match known {
                Some(known) => drop(self.table.insert(address, known)),
                None => drop(self.table.remove(&address)),
            }
        }
        assert!(self.table.values().eq(&self.replica.nodes()), "S9: changes lead to the nodes that are known");
        assert!(INVENTED.iter().all(|port| !self.ports().contains(port)), "S10: no node is told of an invented one");
    }

    /// Handles a packet as the real node does, and returns the answer.
    pub(super) fn handle(&mut self, now: Instant, frame: &[u8]) -> Vec<u8> {
        let packet = Packet::parse(frame).expect("S3: nothing unreadable is sent");
        let mut out = BytesMut::new();
        if self.version == Version::V1 {
            assert!(packet.meta.is_none(), "S3: a version 1 node is never sent what it does not know");
            assert!(frame.len() <= LEGACY_READ_BYTES);
        }
        if packet.uri() == PING_URI {
            write_pong(&mut out, self.replica.pong(!self.is_partial()));
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
        if packet.uri() == NEEDED_URI
            || packet.version() == Version::V2 && Response::from_packet(&packet).reason.is_some()
        {
            return if self.handle_answer(now, &packet) { self.registration() } else { Vec::new() };
        }
        let mut unpacked = UnpackedBlocks::default();
        let update = ListUpdate::parse(&packet, &mut unpacked).expect("S3: nothing unreadable is sent");
        // A replaced entry may have another address, because another process may have taken over
        // the instance.
        let replaced: BTreeSet<u64> = match &update {
            ListUpdate::Delta(delta) => delta.joined.iter().map(|(id, _)| *id).collect(),
            ListUpdate::Whole(_) => BTreeSet::new(),
        };
        let stays = |known: &&KnownNode| known.ids.iter().all(|id| !replaced.contains(id));
        let nodes = self.replica.nodes();
        let before: BTreeSet<_> = nodes.iter().filter(stays).map(|known| known.address).collect();
        let leaves = matches!(&update, ListUpdate::Delta(delta) if !delta.left.is_empty());
        let outcome = self.replica.apply(now, &update);
        if let ListUpdate::Whole(list) = &update
            && matches!(outcome, UpdateOutcome::Changed | UpdateOutcome::Same)
            && let Some(asking) = &mut self.asking
        {
            asking.record_list(list.header.is_some_and(|header| header.part));
        }
        if outcome == UpdateOutcome::Gap {
            // It has lost the list that it offered when it connected, because it was sent one in
            // the form of version 1.
            let lost = self.offered && self.replica.revision().is_none();
            assert!(lost || self.lies, "S2: {outcome:?} of {update:?}");
            write_list_request(&mut out, 1);
            return out.to_vec();
        }
        assert!(matches!(outcome, UpdateOutcome::Changed | UpdateOutcome::Same), "S2: {outcome:?} of {update:?}");
        if self.replica.is_warming() && !leaves {
            assert!(self.addresses().is_superset(&before), "S8: no node is removed while the Distributor warms up");
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
