//! The sessions of this gateway: who has one, which groups they have joined, and which of them wait
//! for their clients to come back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::{HashMap, HashSet};
use protocol::PushTarget;

use crate::sessions::core::session_id::{ResumePoint, SessionKey, parse_session_id};

/// Groups that one session may join: a client follows a few things at a time.
pub(crate) const MAX_GROUPS_OF_SESSION: usize = 64;
/// Groups of the gateway, with those of users: twice as many as the most sockets, and more than a
/// node needs to name rooms.
const MAX_NAMES: usize = 200_000;
/// Bytes of the name of a user or a group.
pub(crate) const MAX_NAME_BYTES: usize = 256;

/// The sessions, each with what the shell needs to reach it.
#[derive(Debug)]
pub(crate) struct SessionTable<S> {
    gateway: u128,
    sessions: HashMap<SessionKey, SessionEntry<S>>,
    users: NameIndex,
    groups: NameIndex,
    /// The sessions without a socket, by when they end.
    cut: CutSessions,
}

/// One session.
#[derive(Debug)]
struct SessionEntry<S> {
    handle: S,
    user: Option<Arc<str>>,
    groups: Vec<Arc<str>>,
    secret: u128,
    /// When it ends, if it has no socket.
    ends_at: Option<Instant>,
}

/// A session that is about to be added.
#[derive(Clone, Debug, Default)]
pub(crate) struct NewSession {
    pub(crate) user: Option<String>,
    pub(crate) groups: Vec<String>,
    pub(crate) secret: u128,
}

/// Why a session cannot be added, or cannot join a group: there are too many, or a name is too
/// long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

/// The sessions without a socket.
#[derive(Debug, Default)]
struct CutSessions(BTreeSet<(Instant, SessionKey)>);

/// The sessions that have a name. Names without sessions are forgotten.
#[derive(Debug, Default)]
struct NameIndex(HashMap<Arc<str>, HashSet<SessionKey>>);

impl<S: Clone> SessionTable<S> {
    /// The table of the gateway with this number in its sessions' ids.
    pub(crate) fn new(gateway: u128) -> Self {
        let (users, groups) = (NameIndex::default(), NameIndex::default());
        Self { gateway, sessions: HashMap::default(), users, groups, cut: CutSessions::default() }
    }

    /// Adds a session with a socket.
    ///
    /// # Errors
    /// [`TooMany`]. Nothing is added then.
    pub(crate) fn insert(&mut self, key: SessionKey, handle: S, new: &NewSession) -> Result<(), TooMany> {
        let mut groups: Vec<&str> = new.groups.iter().map(String::as_str).collect();
        groups.sort_unstable();
        groups.dedup();
        let names = groups.iter().copied().chain(new.user.as_deref());
        let is_long = names.clone().any(|name| name.len() > MAX_NAME_BYTES);
        if is_long || groups.len() > MAX_GROUPS_OF_SESSION || !self.has_room(names.count()) {
            return Err(TooMany);
        }
        let user = new.user.as_deref().map(|user| self.users.add(user, key));
        let groups = groups.into_iter().map(|group| self.groups.add(group, key)).collect();
        let (secret, ends_at) = (new.secret, None);
        self.sessions.insert(key, SessionEntry { handle, user, groups, secret, ends_at });
        Ok(())
    }

    /// Removes a session, with or without a socket.
    pub(crate) fn remove(&mut self, key: SessionKey) -> Option<S> {
        let entry = self.sessions.remove(&key)?;
        entry.user.iter().for_each(|user| self.users.remove(user, key));
        entry.groups.iter().for_each(|group| self.groups.remove(group, key));
        self.cut.forget(entry.ends_at, key);
        Some(entry.handle)
    }

    /// The session has lost its socket, and ends after `kept_time` unless it is resumed.
    pub(crate) fn cut(&mut self, key: SessionKey, now: Instant, kept_time: Duration) {
        if let Some(entry) = self.sessions.get_mut(&key) {
            let at = now + kept_time;
            let before = entry.ends_at.replace(at);
            self.cut.forget(before, key);
            self.cut.0.insert((at, key));
        }
    }

    /// Gives a session to a new socket, and a new secret to its client. A socket that it still has
    /// is to be closed. `None` if there is no such session, or the secret is another.
    pub(crate) fn resume(&mut self, point: &ResumePoint, new_secret: u128) -> Option<S> {
        let entry = self.sessions.get_mut(&point.key).filter(|entry| entry.secret == point.secret)?;
        entry.secret = new_secret;
        self.cut.forget(entry.ends_at.take(), point.key);
        Some(entry.handle.clone())
    }

    /// Removes the sessions whose clients have not come back in time.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<S> {
        let mut ended = Vec::new();
        while let Some((_, key)) = self.cut.0.first().copied().filter(|(at, _)| *at <= now) {
            ended.extend(self.remove(key));
        }
        ended
    }

    /// When the next session ends that has no socket.
    pub(crate) fn next_end(&self) -> Option<Instant> {
        self.cut.0.first().map(|(at, _)| *at)
    }

    /// The sessions that a command is about.
    pub(crate) fn targets(&self, target: &PushTarget<'_>) -> Vec<S> {
        let handle = |key: &SessionKey| self.sessions.get(key).map(|entry| entry.handle.clone());
        match target {
            PushTarget::Session(id) => {
                parse_session_id(self.gateway, id).as_ref().and_then(handle).into_iter().collect()
            }
            PushTarget::User(user) => self.users.of(user).filter_map(handle).collect(),
            PushTarget::Group(group) => self.groups.of(group).filter_map(handle).collect(),
        }
    }

    /// The keys and users of these sessions, `max` at most.
    pub(crate) fn present(&self, target: &PushTarget<'_>, max: usize) -> Vec<(SessionKey, Option<Arc<str>>)> {
        let found = |key: &SessionKey| self.sessions.get(key).map(|entry| (*key, entry.user.clone()));
        match target {
            PushTarget::Session(id) => {
                parse_session_id(self.gateway, id).as_ref().and_then(found).into_iter().collect()
            }
            PushTarget::User(user) => self.users.of(user).filter_map(found).take(max).collect(),
            PushTarget::Group(group) => self.groups.of(group).filter_map(found).take(max).collect(),
        }
    }

    /// Lets a session join a group.
    ///
    /// # Errors
    /// [`TooMany`].
    pub(crate) fn join(&mut self, key: SessionKey, group: &str) -> Result<(), TooMany> {
        let has_room = group.len() <= MAX_NAME_BYTES && self.has_room(1);
        let Some(entry) = self.sessions.get_mut(&key) else { return Ok(()) };
        if entry.groups.iter().any(|joined| **joined == *group) {
            return Ok(());
        }
        if !has_room || entry.groups.len() >= MAX_GROUPS_OF_SESSION {
            return Err(TooMany);
        }
        entry.groups.push(self.groups.add(group, key));
        Ok(())
    }

    /// Lets a session leave a group.
    pub(crate) fn leave(&mut self, key: SessionKey, group: &str) {
        if let Some(entry) = self.sessions.get_mut(&key) {
            entry.groups.retain(|joined| **joined != *group);
            self.groups.remove(group, key);
        }
    }

    /// How many sessions there are, and how many of them have no socket.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.sessions.len(), self.cut.0.len())
    }

    /// How many groups there are.
    pub(crate) fn groups(&self) -> usize {
        self.groups.0.len()
    }

    fn has_room(&self, names: usize) -> bool {
        self.users.0.len() + self.groups.0.len() + names <= MAX_NAMES
    }
}

impl CutSessions {
    /// Removes the session that was to end at this time, if it was.
    fn forget(&mut self, ends_at: Option<Instant>, key: SessionKey) {
        if let Some(at) = ends_at {
            self.0.remove(&(at, key));
        }
    }
}

impl NameIndex {
    fn add(&mut self, name: &str, key: SessionKey) -> Arc<str> {
        let shared = self.0.get_key_value(name).map_or_else(|| name.into(), |(name, _)| Arc::clone(name));
        self.0.entry(Arc::clone(&shared)).or_default().insert(key);
        shared
    }

    fn remove(&mut self, name: &str, key: SessionKey) {
        if let Some(keys) = self.0.get_mut(name) {
            keys.remove(&key);
            if keys.is_empty() {
                self.0.remove(name);
            }
        }
    }

    fn of(&self, name: &str) -> impl Iterator<Item = &SessionKey> {
        self.0.get(name).into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sessions::core::session_id::session_id;

    const GATEWAY: u128 = 5;

    fn table() -> SessionTable<u128> {
        SessionTable::new(GATEWAY)
    }

    fn new(user: Option<&str>, groups: &[&str]) -> NewSession {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        NewSession { user: user.map(str::to_owned), groups, secret: 9 }
    }

    fn sorted(mut handles: Vec<u128>) -> Vec<u128> {
        handles.sort_unstable();
        handles
    }

    #[test]
    fn sessions_are_found_by_id_user_and_group() {
        let mut table = table();
        for (key, user, groups) in [(1, Some("a"), &["x", "y", "x"][..]), (2, Some("a"), &["y"]), (3, None, &[])] {
            table.insert(SessionKey(key), key, &new(user, groups)).unwrap();
        }
        let check = |table: &SessionTable<u128>, target: PushTarget<'_>, expected: &[u128]| {
            assert_eq!(sorted(table.targets(&target)), expected, "{target:?}");
            assert_eq!(table.present(&target, 10).len(), expected.len());
        };
        check(&table, PushTarget::Session(session_id(GATEWAY, SessionKey(3)).into()), &[3]);
        check(&table, PushTarget::Session(session_id(GATEWAY, SessionKey(4)).into()), &[]);
        check(&table, PushTarget::Session("x".into()), &[]);
        check(&table, PushTarget::User("a".into()), &[1, 2]);
        check(&table, PushTarget::Group("x".into()), &[1]);
        check(&table, PushTarget::Group("y".into()), &[1, 2]);
        assert_eq!(table.present(&PushTarget::Group("y".into()), 1).len(), 1);
        table.join(SessionKey(3), "x").unwrap();
        table.join(SessionKey(4), "x").unwrap();
        table.leave(SessionKey(1), "x");
        table.leave(SessionKey(1), "none");
        check(&table, PushTarget::Group("x".into()), &[3]);
        assert_eq!(table.remove(SessionKey(3)), Some(3));
        assert_eq!((table.remove(SessionKey(3)), table.groups(), table.counts()), (None, 1, (2, 0)));
    }

    #[test]
    fn groups_of_a_session_and_names_are_bounded() {
        let mut table = table();
        let names: Vec<String> = (0..=MAX_GROUPS_OF_SESSION).map(|n| n.to_string()).collect();
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(table.insert(SessionKey(1), 1, &new(None, &all)), Err(TooMany));
        table.insert(SessionKey(1), 1, &new(None, &all[1..])).unwrap();
        assert_eq!(table.join(SessionKey(1), &names[0]), Err(TooMany));
        table.join(SessionKey(1), &names[1]).unwrap();
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        assert_eq!(table.insert(SessionKey(2), 2, &new(Some(&long), &[])), Err(TooMany));
        assert_eq!(table.insert(SessionKey(2), 2, &new(None, &[&long])), Err(TooMany));
        table.insert(SessionKey(2), 2, &new(Some(&long[1..]), &[])).unwrap();
        assert_eq!(table.join(SessionKey(2), &long), Err(TooMany));
        for key in 3.. {
            if table.insert(SessionKey(key), key, &new(Some(&format!("u{key}")), &[])).is_err() {
                break;
            }
        }
        assert_eq!(table.users.0.len() + table.groups(), MAX_NAMES);
        assert_eq!(table.join(SessionKey(2), "one more"), Err(TooMany));
    }

    #[test]
    fn a_session_without_a_socket_waits_for_its_client() {
        let (mut table, now, kept) = (table(), tokio::time::Instant::now().into_std(), Duration::from_secs(30));
        table.insert(SessionKey(1), 1, &new(None, &["x"])).unwrap();
        table.insert(SessionKey(2), 2, &new(None, &[])).unwrap();
        let point = |key, secret| ResumePoint { key: SessionKey(key), secret, after: 0 };
        table.cut(SessionKey(1), now, kept);
        table.cut(SessionKey(2), now + kept, kept);
        table.cut(SessionKey(7), now, kept);
        assert_eq!((table.counts(), table.next_end()), ((2, 2), Some(now + kept)));
        // Messages to it still have a place.
        assert_eq!(table.targets(&PushTarget::Group("x".into())), [1]);
        assert_eq!((table.resume(&point(1, 8), 10), table.resume(&point(3, 9), 10)), (None, None));
        assert_eq!(table.resume(&point(1, 9), 10), Some(1));
        // Each token is good once.
        assert_eq!(table.resume(&point(1, 9), 11), None);
        assert_eq!(table.resume(&point(1, 10), 11), Some(1), "its socket is taken over");
        assert_eq!(table.expire(now + 10 * kept), [2]);
        assert_eq!((table.counts(), table.next_end()), ((1, 0), None));
    }

    proptest! {
        /// As a plain list of (session, group) pairs.
        #[test]
        fn a_table_is_a_list_of_pairs(steps in proptest::collection::vec((0..5u8, 0..4u128, 0..3u8), 1..80)) {
            let (mut table, start) = (table(), tokio::time::Instant::now().into_std());
            let (mut there, mut pairs) = (BTreeSet::new(), BTreeSet::new());
            for (step, key, group) in steps {
                let name = group.to_string();
                match step {
                    0 => if there.insert(key) {
                        table.insert(SessionKey(key), key, &new(Some("u"), &[&name])).unwrap();
                        pairs.insert((key, group));
                    },
                    1 => if there.contains(&key) {
                        table.join(SessionKey(key), &name).unwrap();
                        pairs.insert((key, group));
                    },
                    2 => {
                        table.leave(SessionKey(key), &name);
                        pairs.remove(&(key, group));
                    }
                    3 => table.cut(SessionKey(key), start, Duration::from_secs(1)),
                    _ => {
                        prop_assert_eq!(table.remove(SessionKey(key)).is_some(), there.remove(&key));
                        pairs.retain(|(other, _)| *other != key);
                    }
                }
                prop_assert_eq!(sorted(table.targets(&PushTarget::User("u".into()))), there.iter().copied().collect::<Vec<_>>());
                for group in 0..3_u8 {
                    let expected: Vec<u128> = pairs.iter().filter(|(_, of)| *of == group).map(|(key, _)| *key).collect();
                    prop_assert_eq!(sorted(table.targets(&PushTarget::Group(group.to_string().into()))), expected);
                }
                prop_assert!(table.cut.0.iter().all(|(_, key)| there.contains(&key.0)));
                prop_assert_eq!(table.groups(), pairs.iter().map(|(_, group)| group).collect::<BTreeSet<_>>().len());
            }
        }
    }
}
