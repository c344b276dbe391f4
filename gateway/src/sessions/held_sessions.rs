//! All sessions of this gateway, and what nodes command.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use protocol::{PresentSession, PushAction, PushCommand, PushMiss, PushReport, PushTarget, SocketAdvert};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::Notify;

use crate::sessions::core::outbox::Full;
use crate::sessions::core::session_id::{SessionKey, parse_resume, resume_token, session_id};
use crate::sessions::core::table::{NewSession, SessionTable, TooMany};
use crate::sessions::held_session::HeldSession;

/// The codes with which a node may close a socket: those that RFC 6455 leaves to programs, and
/// 1000.
const OWN_CODES: std::ops::RangeInclusive<u16> = 3000..=4999;
/// The code in place of others.
const NORMAL_CODE: u16 = 1000;

/// The sessions of all workers.
#[derive(Debug)]
pub(crate) struct HeldSessions {
    /// What the ids of its sessions begin with.
    gateway: u128,
    table: Mutex<SessionTable<Arc<HeldSession>>>,
    random: SystemRandom,
    all_bytes: Arc<AtomicUsize>,
    /// Notified when a session has lost its socket.
    pub(crate) cut: Notify,
    pushed: AtomicU64,
    slow: AtomicU64,
    dropped: AtomicU64,
    resumed: AtomicU64,
}

/// Figures for operators.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SessionTotals {
    /// Sessions, with those that have no socket.
    pub(crate) sessions: usize,
    /// Sessions without a socket, whose clients may come back.
    pub(crate) cut: usize,
    pub(crate) groups: usize,
    /// Bytes that wait for clients.
    pub(crate) bytes: usize,
    /// Messages that were queued for clients.
    pub(crate) pushed: u64,
    /// Messages that were refused because their clients do not read.
    pub(crate) slow: u64,
    /// Messages that were dropped for newer ones.
    pub(crate) dropped: u64,
    /// Sessions that were resumed.
    pub(crate) resumed: u64,
}

/// A session that has a socket now.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) session: Arc<HeldSession>,
    /// The number of the socket.
    pub(crate) socket: u32,
    /// What the client resumes it by; empty if it cannot.
    pub(crate) token: String,
    pub(crate) resumed: bool,
    /// Whether messages are lost.
    pub(crate) missed: bool,
    /// The number of the message before those that follow.
    pub(crate) after: u64,
}

impl HeldSessions {
    pub(crate) fn new() -> Self {
        let gateway = net::unique_id();
        Self {
            gateway,
            table: Mutex::new(SessionTable::new(gateway)),
            random: SystemRandom::new(),
            all_bytes: Arc::default(),
            cut: Notify::new(),
            pushed: AtomicU64::new(0),
            slow: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            resumed: AtomicU64::new(0),
        }
    }

    /// What the ids of its sessions begin with.
    pub(crate) fn gateway(&self) -> String {
        format!("{:032x}", self.gateway)
    }

    /// The key of a session that is about to be opened.
    pub(crate) fn new_key(&self) -> SessionKey {
        SessionKey(net::unique_id())
    }

    /// The id by which nodes know a session.
    pub(crate) fn id(&self, key: SessionKey) -> String {
        session_id(self.gateway, key)
    }

    /// Adds a session that a node has accepted, with the first messages for its client.
    ///
    /// # Errors
    /// [`TooMany`], also if the first messages are more than may wait.
    pub(crate) fn open(
        &self,
        key: SessionKey,
        (path, client, advert): (&str, IpAddr, SocketAdvert),
        new: &NewSession,
        messages: impl Iterator<Item = Bytes>,
    ) -> Result<Attached, TooMany> {
        let about = (path, new.user.as_deref(), client);
        let session = Arc::new(HeldSession::new(key, about, advert, Arc::clone(&self.all_bytes)));
        for message in messages {
            session.push(message).map_err(|_full| TooMany)?;
        }
        let (socket, missed, after) = session.attach(0);
        let token = if session.is_resumable() { resume_token(self.gateway, key, new.secret) } else { String::new() };
        self.lock().insert(key, Arc::clone(&session), new)?;
        Ok(Attached { session, socket, token, resumed: false, missed, after })
    }

    /// Gives a session to the client that shows its token; `None` if there is none, or it has
    /// another path. An earlier socket of it is closed.
    pub(crate) fn resume(&self, token: &str, after: &str, path: &str) -> Option<Attached> {
        let point = parse_resume(self.gateway, token, after)?;
        let secret = self.new_secret();
        let session = self.lock().resume(&point, secret).filter(|session| *session.path == *path)?;
        let (socket, missed, after) = session.attach(point.after);
        self.resumed.fetch_add(1, Ordering::Relaxed);
        let token = resume_token(self.gateway, point.key, secret);
        Some(Attached { session, socket, token, resumed: true, missed, after })
    }

    /// A secret that cannot be guessed, unless the system has no random numbers.
    pub(crate) fn new_secret(&self) -> u128 {
        let mut bytes = [0; 16];
        match self.random.fill(&mut bytes) {
            Ok(()) => u128::from_ne_bytes(bytes),
            Err(_) => net::unique_id(),
        }
    }

    /// The session has lost its socket, and waits for its client for as long as its route says.
    pub(crate) fn keep(&self, session: &HeldSession, now: Instant) {
        self.lock().cut(session.key, now, Duration::from_secs(session.advert.resume.into()));
        self.cut.notify_one();
    }

    /// Removes a session for good. Returns whether it was there.
    pub(crate) fn remove(&self, session: &HeldSession) -> bool {
        self.lock().remove(session.key).is_some()
    }

    /// Removes the sessions whose clients have not come back in time, and returns them.
    pub(crate) fn expire(&self, now: Instant) -> Vec<Arc<HeldSession>> {
        self.lock().expire(now)
    }

    /// When the next session ends that has no socket.
    pub(crate) fn next_end(&self) -> Option<Instant> {
        self.lock().next_end()
    }

    /// Does what a node commands.
    pub(crate) fn carry_out(&self, command: &PushCommand<'_>) -> PushReport {
        let PushCommand { n, to, action } = command;
        if let PushAction::List = action {
            return self.list(*n, to);
        }
        let targets = self.lock().targets(to);
        let mut report = PushReport { n: *n, ..PushReport::default() };
        if targets.is_empty() && matches!(to, PushTarget::Session(_)) {
            report.missed = Some(PushMiss::Unknown);
        }
        let message = if let PushAction::Message(message) = action { message.get() } else { "" };
        let message = Bytes::copy_from_slice(message.as_bytes());
        for session in targets {
            match self.act(&session, action, &message) {
                Ok(()) => report.count += 1,
                Err(missed) => report.missed = Some(missed),
            }
        }
        report
    }

    fn act(&self, session: &HeldSession, action: &PushAction<'_>, message: &Bytes) -> Result<(), PushMiss> {
        match action {
            PushAction::Message(_) => {
                let pushed = session.push(message.clone());
                let (counter, dropped) = match &pushed {
                    Ok(dropped) => (&self.pushed, *dropped),
                    Err(Full) => (&self.slow, 0),
                };
                counter.fetch_add(1, Ordering::Relaxed);
                self.dropped.fetch_add(dropped, Ordering::Relaxed);
                pushed.map(drop).map_err(|Full| PushMiss::Slow)
            }
            PushAction::Join(group) => self.lock().join(session.key, group).map_err(|TooMany| PushMiss::Groups),
            PushAction::Leave(group) => {
                self.lock().leave(session.key, group);
                Ok(())
            }
            PushAction::Close(close) => {
                session.close(if OWN_CODES.contains(&close.code) { close.code } else { NORMAL_CODE }, &close.reason);
                Ok(())
            }
            PushAction::List => Ok(()),
        }
    }

    fn list(&self, n: u64, to: &PushTarget<'_>) -> PushReport {
        let present = self.lock().present(to, PushReport::MAX_SESSIONS);
        let sessions: Vec<_> = present
            .into_iter()
            .map(|(key, user)| PresentSession { session: self.id(key), user: user.map(|user| (*user).to_owned()) })
            .collect();
        PushReport { n, count: sessions.len(), sessions, missed: None }
    }

    /// Figures for operators.
    pub(crate) fn totals(&self) -> SessionTotals {
        let ((sessions, cut), groups) = {
            let table = self.lock();
            (table.counts(), table.groups())
        };
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SessionTotals {
            sessions,
            cut,
            groups,
            bytes: self.all_bytes.load(Ordering::Relaxed),
            pushed: count(&self.pushed),
            slow: count(&self.slow),
            dropped: count(&self.dropped),
            resumed: count(&self.resumed),
        }
    }

    fn lock(&self) -> MutexGuard<'_, SessionTable<Arc<HeldSession>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use futures::task::noop_waker_ref;
    use protocol::PushClose;
    use serde_json::value::{RawValue, to_raw_value};

    use super::*;
    use crate::sessions::{NextOfSession, SessionEnding};

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn opened(sessions: &HeldSessions, advert: SocketAdvert, groups: &[&str]) -> Attached {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        let new = NewSession { user: Some("u".to_owned()), groups, secret: sessions.new_secret() };
        sessions.open(sessions.new_key(), ("/a", CLIENT, advert), &new, std::iter::empty()).unwrap()
    }

    fn next(attached: &Attached) -> Option<NextOfSession> {
        let task = std::task::Context::from_waker(noop_waker_ref());
        match attached.session.poll_next(&task, attached.socket) {
            Poll::Ready(next) => Some(next),
            Poll::Pending => None,
        }
    }

    fn message(text: &str) -> Box<RawValue> {
        to_raw_value(text).unwrap()
    }

    #[test]
    fn commands_reach_sessions_and_report() {
        let sessions = HeldSessions::new();
        let [one, two] = [&["x"][..], &[]].map(|groups| opened(&sessions, SocketAdvert::default(), groups));
        let id = sessions.id(one.session.key);
        let check = |to: PushTarget<'_>, action: PushAction<'_>, count, missed| {
            let report = sessions.carry_out(&PushCommand { n: 7, to, action });
            assert_eq!((report.n, report.count, report.missed), (7, count, missed));
        };
        let text = message("hello");
        let to = |id: &str| PushTarget::Session(id.to_owned().into());
        check(to(&id), PushAction::Message(&text), 1, None);
        check(to("x.y"), PushAction::Message(&text), 0, Some(PushMiss::Unknown));
        check(PushTarget::User("u".into()), PushAction::Join("y".into()), 2, None);
        check(PushTarget::Group("y".into()), PushAction::Message(&text), 2, None);
        check(PushTarget::Group("z".into()), PushAction::Message(&text), 0, None);
        check(PushTarget::User("u".into()), PushAction::List, 2, None);
        check(to(&id), PushAction::Leave("y".into()), 1, None);
        check(PushTarget::Group("y".into()), PushAction::Close(PushClose { code: 7, reason: "over".into() }), 1, None);
        let taken = |number| Some(NextOfSession::Message(number, Bytes::from_static(b"\"hello\"")));
        assert_eq!((next(&one), next(&one), next(&one)), (taken(1), taken(2), None));
        let over = SessionEnding::ByNode { code: 1000, reason: "over".to_owned() };
        assert_eq!((next(&two), next(&two)), (taken(1), Some(NextOfSession::End(over))));
        sessions.remove(&one.session);
        check(to(&id), PushAction::List, 0, None);
        let totals = sessions.totals();
        assert_eq!((totals.sessions, totals.groups, totals.pushed, totals.bytes), (1, 1, 3, 0));
    }

    #[test]
    fn a_client_that_does_not_read_loses_its_socket_or_its_oldest_messages() {
        let sessions = HeldSessions::new();
        let text = message(&"x".repeat(100_000));
        let fill = |attached: &Attached| {
            let to = || PushTarget::Session(sessions.id(attached.session.key).into());
            let push = |n| sessions.carry_out(&PushCommand { n, to: to(), action: PushAction::Message(&text) });
            (0..5).map(push).filter(|report| report.missed == Some(PushMiss::Slow)).count()
        };
        let strict = opened(&sessions, SocketAdvert::default(), &[]);
        assert_eq!(fill(&strict), 3);
        assert_eq!(next(&strict), Some(NextOfSession::End(SessionEnding::Slow)));
        let lossy = opened(&sessions, SocketAdvert { drops_oldest: true, ..SocketAdvert::default() }, &[]);
        assert_eq!(fill(&lossy), 0);
        assert!(matches!(next(&lossy), Some(NextOfSession::Message(4, _))));
        assert!(sessions.totals().bytes >= 300_000);
        sessions.remove(&lossy.session);
        sessions.remove(&strict.session);
        drop((lossy, strict));
        assert_eq!((sessions.totals().bytes, sessions.totals().dropped, sessions.totals().slow), (0, 3, 3));
    }

    #[test]
    fn what_waits_in_all_sessions_is_bounded() {
        let sessions = HeldSessions::new();
        let large = Bytes::from(vec![b'x'; 1 << 20]);
        let mut pushed = 0;
        let held: Vec<_> = (0..100).map(|_| opened(&sessions, SocketAdvert::default(), &[])).collect();
        for attached in &held {
            // One message of any size is always taken.
            attached.session.push(large.clone()).unwrap();
            pushed += usize::from(attached.session.push(Bytes::from_static(b"1")).is_ok());
        }
        assert_eq!(pushed, 0, "a large message fills an outbox");
        let small = opened(&sessions, SocketAdvert::default(), &[]);
        small.session.push(Bytes::from_static(b"1")).unwrap();
        assert!(small.session.push(Bytes::from_static(b"1")).is_err());
    }

    #[test]
    fn a_client_takes_its_session_over() {
        let sessions = HeldSessions::new();
        let advert = SocketAdvert { resume: 30, ..SocketAdvert::default() };
        let first = opened(&sessions, advert, &[]);
        first.session.push(Bytes::from_static(b"1")).unwrap();
        assert!(next(&first).is_some());
        assert!(sessions.resume(&first.token, "0", "/other").is_none());
        // The wrong path has used the token up: it is good once.
        assert!(sessions.resume(&first.token, "0", "/a").is_none());
        let first = opened(&sessions, advert, &[]);
        first.session.push(Bytes::from_static(b"1")).unwrap();
        assert!(next(&first).is_some());
        let again = sessions.resume(&first.token, "0", "/a").unwrap();
        assert_eq!(next(&first), Some(NextOfSession::End(SessionEnding::TakenOver)));
        assert!(again.resumed && !again.missed && matches!(next(&again), Some(NextOfSession::Message(1, _))));
        assert!(sessions.resume(&first.token, "0", "/a").is_none());
        let now = tokio::time::Instant::now().into_std();
        sessions.keep(&again.session, now);
        assert_eq!(sessions.next_end(), Some(now + Duration::from_secs(30)));
        assert_eq!(sessions.expire(now + Duration::from_secs(31)).len(), 1);
        assert!(sessions.resume(&again.token, "1", "/a").is_none());
    }
}
