//! Runs the timers.

use std::sync::atomic::Ordering;

use bytes::BytesMut;
use protocol::{LeaveReason, Version, Visibility, write_copy_request, write_visibility};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::entries::SessionId;
use crate::peer::notices::NoticeKind;
use crate::registry::DueActions;
use crate::registry::liveness::{ActiveTime, Verdict};
use crate::shell::logs::shown_name;
use crate::shell::session::{FlushOutcome, Writer};
use crate::shell::shared::{Shared, SharedState, version_index};

impl Shared {
    /// Carries out everything that is due, and pings peers that are silent. Runs until cancelled.
    pub(crate) async fn run_timers(&self) {
        loop {
            let next = {
                let state = self.lock();
                let tick = (state.open_sessions > 0).then(|| Instant::now() + state.registry.liveness.period());
                tick.into_iter().chain(state.registry.next_due().map(Instant::from_std)).min()
            };
            tokio::select! {
                () = net::sleep_until_opt(next) => {}
                () = self.rescheduled.notified() => {}
            }
            let now = Instant::now().into_std();
            let (before, due, verdicts) = {
                let mut state = self.lock();
                let before = state.registry.published();
                let due = state.registry.run_due(now);
                let SharedState { registry, followers, .. } = &mut *state;
                let followers = &followers[version_index(Version::V2)].all;
                let heard =
                    |session| followers.get(&session).map_or(ActiveTime::ZERO, |session| session.last_sign_of_life());
                let verdicts = registry.liveness.tick(now, heard);
                let active_time = u64::try_from(registry.liveness.active_time().as_nanos()).unwrap_or(u64::MAX);
                self.active_time.store(active_time, Ordering::Relaxed);
                (before, due, verdicts)
            };
            self.apply_due(due);
            for (session, verdict) in verdicts {
                self.apply_verdict(now, session, verdict);
            }
            self.cut_superseded(&mut self.lock());
            if before != self.lock().registry.published() {
                self.notify_followers();
            }
        }
    }

    fn apply_due(&self, due: DueActions) {
        let DueActions { copy_from, resolved, listed, gone, trusted, begins_anew, is_warm } = due;
        if begins_anew {
            warn!("no copy of the list before the restart could be used: nodes are listed as they register");
        }
        trusted.iter().for_each(|record| self.log_liveness(record));
        for record in listed {
            if let Some(suppressed) = self.join_log.allow("listed", Instant::now().into_std()) {
                let (name, address) = (shown_name(&record.name), record.address());
                info!(%name, address, suppressed, "listed, after it was deferred");
            }
        }
        if is_warm {
            debug!(nodes = self.lock().registry.nodes(), "warm: lists are complete");
        }
        for record in gone {
            if let Some(suppressed) = self.join_log.allow("gone", Instant::now().into_std()) {
                let (name, address) = (shown_name(&record.name), record.address());
                info!(%name, address, suppressed, "left: the node did not come back");
            }
        }
        let mut packets = Vec::new();
        if let Some(session) = copy_from {
            let mut out = BytesMut::new();
            write_copy_request(&mut out);
            packets.push((session, NoticeKind::CopyRequest, out));
        }
        for (resolved, missing) in resolved {
            let mut out = BytesMut::new();
            let visibility = Visibility { seen: resolved.seen, of: resolved.of, enough: resolved.enough, missing };
            write_visibility(&mut out, &visibility);
            packets.push((resolved.session, NoticeKind::Visibility, out));
        }
        for (session, kind, packet) in packets {
            if let Some(session) = self.follower(session) {
                session.outbox().notify(kind, packet.freeze());
                session.wake.notify_one();
            }
        }
    }

    fn apply_verdict(&self, now: std::time::Instant, session: SessionId, verdict: Verdict) {
        let Some(session) = self.follower(session) else { return };
        let changed = self.lock().registry.apply_verdict(now, session.id, verdict);
        if let Some(record) = changed {
            self.log_liveness(&record);
        }
        match verdict {
            Verdict::Ping => {
                session.outbox().ping();
                let (outcome, _) = session.flush(self, Writer::Publisher);
                // A connection's task that waits to send a list has to write the ping first.
                let is_behind = session.outbox().is_behind;
                if is_behind || !matches!(outcome, FlushOutcome::Done | FlushOutcome::Broken) {
                    session.wake.notify_one();
                }
            }
            Verdict::Suspect | Verdict::Trust => {}
            Verdict::Hung => session.cut(LeaveReason::Hung),
        }
    }
}
