//! One connection as the publisher and the registry see it, and the guard that removes it when its
//! task ends.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use net::Socket;
use protocol::{
    CopyPart, Digest, Key, LeaveReason, RegisterOptions, Registration, Report, Revision, Version, WindowFull, host_text,
};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::entries::SessionId;
use crate::peer::outbox::{Outbox, WriteStep};
use crate::registry::liveness::{ActiveTime, Verdict};
use crate::registry::{Admission, RegisterError, Rejection, ReportOutcome};
use crate::shell::shared::update_queue::AddressQueue;
use crate::shell::shared::{Shared, version_index};
use crate::updates::lists::WaitReason;

/// A connection, as the publisher sees it.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) peer: SocketAddr,
    pub(crate) socket: Socket,
    /// A task that holds this lock may write to the socket. Nothing waits while it is held. The
    /// registry may be locked while the outbox is, and never the other way round.
    pub(super) outbox: Mutex<Outbox>,
    /// Wakes the connection's task: bytes are left that the publisher could not write, or the
    /// session is to end.
    pub(crate) wake: Notify,
    /// Why the registry has removed the session, once it has.
    pub(crate) cut_reason: OnceLock<LeaveReason>,
    /// Whether the connection is evicted to make room for another one.
    pub(crate) is_evicted: AtomicBool,
    /// Whether others report that the node does not answer. It cannot be pinged, so its socket
    /// should be observed.
    pub(crate) is_reported: AtomicBool,
    pub(super) opened_at: Instant,
    /// The queue that it shares with the other connections of its address group.
    pub(crate) address_queue: AddressQueue,
    /// The active time at its last sign of life, in nanoseconds.
    pub(super) last_heard: AtomicU64,
    /// Whether the peer is owed bytes that could not be written yet. A ping would wait behind them.
    pub(super) is_owed_bytes: AtomicBool,
}

/// The task that writes to a session's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writer {
    /// The publisher, to every session in turn. It never waits for a session.
    Publisher,
    /// The connection's own task, which waits for whatever blocks the bytes.
    Connection,
}

/// The result of writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlushOutcome {
    /// Everything is written.
    Done,
    /// The socket takes nothing more since this time.
    Stalled(std::time::Instant),
    /// A version 1 peer is given time to read.
    Paced(WindowFull),
    /// The packet that the peer is owed can be encoded at this time.
    Later(WaitReason),
    /// The connection is broken.
    Broken,
}

/// Removes a session when it is dropped, so panics and cancelled tasks remove theirs too.
#[derive(Debug)]
pub(crate) struct SessionGuard {
    pub(super) shared: Arc<Shared>,
    pub(crate) session: Arc<Session>,
}

impl SessionGuard {
    pub(crate) fn register(
        &self,
        registration: Registration,
        version: Version,
        options: &RegisterOptions,
    ) -> Result<Admission, RegisterError> {
        self.shared.register(&self.session, registration, version, options)
    }

    /// Tells a version 1 peer of changes from now on, although its registration is not taken.
    pub(crate) fn follow_only(&self) {
        self.shared.follow_only(&self.session);
    }

    /// Takes the registration away while the connection lives on.
    pub(crate) fn unregister(&self, reason: LeaveReason) {
        self.session.outbox().unfollow();
        self.shared.remove_session(&self.session, reason);
        self.shared.lock().await_registration(&self.session);
    }

    /// Records that the peer has given a sign of life.
    pub(crate) fn record_sign_of_life(&self) {
        self.session.last_heard.store(self.shared.active_time.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Records that the peer knows this state. If its digest is wrong, it is sent the list.
    pub(crate) fn acknowledge(&self, known: Revision, digest: Option<Digest>, now: std::time::Instant) {
        let drifted = self.shared.lock().registry.acknowledge(self.session.id, known, digest);
        if drifted && self.session.outbox().resend_list(now) {
            warn!(
                peer = %self.session.peer, revision = %known,
                "the node's copy of the list differs from what it was sent; the list is sent again"
            );
        }
    }

    /// Owes the peer the answer to its question: who offers these routes?
    ///
    /// # Errors
    /// The rejection that it is sent instead.
    pub(crate) fn answer_need(&self, key: &Key, routes: &[String]) -> Result<(), Rejection> {
        let now = Instant::now().into_std();
        let host = host_text(self.session.peer.ip());
        let mut outbox = self.session.outbox();
        let answered = outbox.answer_need(now, &mut self.shared.lock().registry, &host, key, routes);
        self.shared.counters.record_question(answered.as_ref().err());
        answered
    }

    pub(crate) fn report(&self, report: &Report) {
        let now = Instant::now().into_std();
        let mut state = self.shared.lock();
        let ReportOutcome { has_changed, suspects, to_probe, hung } =
            state.registry.report_failed(now, self.session.id, &report.failed);
        let notices = state.registry.report_unreachable(now, self.session.id, &report.unreachable);
        let version_1 = &state.followers[version_index(Version::V1)].all;
        let to_probe: Vec<_> = to_probe.iter().filter_map(|session| version_1.get(session).cloned()).collect();
        let hung: Vec<_> = hung.iter().filter_map(|session| version_1.get(session).cloned()).collect();
        drop(state);
        for session in to_probe {
            session.is_reported.store(true, Ordering::Relaxed);
            session.wake.notify_one();
        }
        hung.iter().for_each(|session| session.cut(LeaveReason::Hung));
        suspects.iter().for_each(|record| self.shared.log_liveness(record));
        for notice in &notices {
            self.shared.report_unreachable(now, notice);
        }
        if has_changed {
            self.shared.notify_followers();
        }
        self.shared.rescheduled.notify_one();
    }

    pub(crate) fn restore_part(&self, part: &CopyPart<'_>) {
        let now = Instant::now().into_std();
        let (complete, nodes, bad) = {
            let mut state = self.shared.lock();
            let complete = state.registry.restore_part(now, self.session.id, part);
            (complete, state.registry.nodes(), state.registry.poll_bad_copy())
        };
        if let Some(why) = bad
            && let Some(suppressed) = self.shared.warnings.allow("bad_copy", now)
        {
            let peer = self.session.peer;
            warn!(%peer, suppressed, "the copy of the list that this node sent is not used: {why}");
        }
        if complete {
            let (revision, peer) = (part.revision, self.session.peer);
            info!(nodes, %revision, %peer, "restored the list of the earlier Distributor");
            self.shared.notify_followers();
        }
        self.shared.rescheduled.notify_one();
    }

    pub(crate) fn history(&self, node: &str) -> Vec<protocol::HistoryEvent> {
        self.shared.lock().registry.history(Instant::now().into_std(), node)
    }

    /// Records an observation of a version 1 node: it reads, or has not read for a while.
    pub(crate) fn apply_verdict(&self, verdict: Verdict) {
        let now = Instant::now().into_std();
        let mut state = self.shared.lock();
        if verdict == Verdict::Trust {
            state.registry.record_reading(now, self.session.id);
        }
        let changed = state.registry.apply_verdict(now, self.session.id, verdict);
        drop(state);
        if let Some(record) = changed {
            self.shared.log_liveness(&record);
            self.shared.notify_followers();
        }
    }

    /// Whether a peer that has just connected is greeted later, because the list of an earlier
    /// Distributor is about to be restored.
    pub(crate) fn defers_greetings(&self) -> bool {
        self.shared.lock().registry.defers_updates(Version::V1)
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        self.shared.remove_session(&self.session, LeaveReason::Closed);
        let mut state = self.shared.lock();
        state.uncount_unregistered(self.session.id);
        if !self.session.is_evicted.load(Ordering::Relaxed) {
            state.close(&self.session);
        }
    }
}

impl Session {
    pub(crate) fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the task of the session end it, because the registry has removed it.
    pub(super) fn cut(&self, reason: LeaveReason) {
        let _ = self.cut_reason.set(reason);
        self.wake.notify_one();
    }

    /// When the peer counts as heard, in active time. While it is owed bytes, it is not judged by
    /// pings: if its socket takes none of these bytes for long, it is cut for that.
    pub(super) fn last_sign_of_life(&self) -> ActiveTime {
        if self.is_owed_bytes.load(Ordering::Relaxed) {
            return ActiveTime::MAX;
        }
        Duration::from_nanos(self.last_heard.load(Ordering::Relaxed))
    }

    /// Writes the outbox, as far as the peer's socket takes it, and returns the number of bytes.
    /// Never waits.
    ///
    /// The publisher sends changes, so that they merge. The connection's task writes the rest;
    /// until that is done, the publisher skips the session. No change is lost between them: both
    /// ask for the newest state while they hold the outbox, so the last of them has sent it.
    pub(crate) fn flush(&self, shared: &Shared, writer: Writer) -> (FlushOutcome, usize) {
        let mut outbox = self.outbox();
        if writer == Writer::Publisher && (outbox.is_behind || outbox.owes_reply()) {
            return (FlushOutcome::Done, 0);
        }
        let with_lists = writer == Writer::Publisher || outbox.is_behind;
        let (mut written, mut told) = (0, 0);
        let now = Instant::now().into_std();
        let outcome = loop {
            let before = outbox.last_sent();
            let step = outbox.next(now, &mut shared.lock().registry, with_lists);
            told += u64::from(outbox.last_sent() != before);
            let packet = match step {
                WriteStep::Done => break FlushOutcome::Done,
                WriteStep::WaitFor(full) => break FlushOutcome::Paced(full),
                WriteStep::Later(wait) => break FlushOutcome::Later(wait),
                WriteStep::Write(packet) => packet,
            };
            // One write per packet: a packet in two pieces crashes version 1 peers.
            match self.socket.try_write(&packet) {
                Ok(bytes) => {
                    outbox.record_write(now, bytes);
                    written += bytes;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    outbox.blocked(now);
                    break FlushOutcome::Stalled(outbox.stalled_since().unwrap_or(now));
                }
                Err(_broken) => break FlushOutcome::Broken,
            }
        };
        if told > 0 {
            shared.counters.record_updates(told);
        }
        if written > 0 && outbox.is_behind {
            // The peer still reads earlier packets, though a ping may be stuck behind them.
            self.last_heard.store(shared.active_time.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        outbox.is_behind =
            matches!(outcome, FlushOutcome::Stalled(_) | FlushOutcome::Paced(_) | FlushOutcome::Later(_));
        self.is_owed_bytes.store(outbox.is_behind, Ordering::Relaxed);
        (outcome, written)
    }
}
