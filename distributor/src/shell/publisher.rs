//! Tells followers of changes.

use std::sync::Arc;
use std::time::Duration;

use net::TimeSlice;
use protocol::{Revision, Version};
use tokio::time::{Instant, sleep};

use crate::shell::session::{FlushOutcome, Writer};
use crate::shell::shared::{Shared, version_index};

/// Sockets written to, and bytes written, before other tasks run, if that takes less than a
/// [`TimeSlice`].
const WRITES_PER_SLICE: usize = 64;
const BYTES_PER_SLICE: usize = 1 << 20;

/// Bytes of lists a second that a publisher aims at: a fraction of the rate at which one core fills
/// loopback sockets.
const PUBLISH_BYTES_PER_SECOND: f64 = 256e6;
/// A publisher pauses this many times as long as it has worked, so that it takes a third of a core
/// at most. A single change goes out at once, and a burst is merged.
const PAUSE_PER_WORK: u32 = 2;
/// However long a round takes, a change does not wait longer than this after it.
const MAX_PAUSE: Duration = Duration::from_millis(250);

/// The task that sends the followers of one version the newest state.
pub(super) struct Publisher {
    shared: Arc<Shared>,
    version: Version,
}

impl Publisher {
    pub(super) fn new(shared: Arc<Shared>, version: Version) -> Self {
        Self { shared, version }
    }

    /// Sends every change to every follower, merged while the publisher works or pauses. Runs until
    /// cancelled.
    pub(super) async fn run(self) {
        let Self { shared, version } = self;
        let mut published = Revision::default();
        loop {
            shared.changed[version_index(version)].notified().await;
            let begin = Instant::now();
            let followers: Vec<_> = {
                let mut state = shared.lock();
                if state.registry.defers_updates(version) {
                    // Followers are sent the list once the restoring is over.
                    let gone = state.followers[version_index(version)].take_gone();
                    drop((state, gone));
                    continue;
                }
                if version == Version::V1 && state.followers[version_index(version)].all.is_empty() {
                    // Without followers no list is encoded: with thousands of nodes that costs
                    // milliseconds for each change.
                    let gone = state.followers[version_index(version)].take_gone();
                    drop((state, gone));
                    continue;
                }
                let newest = state.registry.publish(version);
                let followers = &mut state.followers[version_index(version)];
                let new = std::mem::take(&mut followers.new);
                if std::mem::replace(&mut published, newest) == newest {
                    new
                } else {
                    followers.all.values().cloned().collect()
                }
            };
            let (mut bytes, mut worked) = (0, Duration::ZERO);
            let mut slice = TimeSlice::new();
            let mut batch = (0, 0);
            for session in &followers {
                let (outcome, written) = session.flush(&shared, Writer::Publisher);
                bytes += written;
                batch = (batch.0 + 1, batch.1 + written);
                if !matches!(outcome, FlushOutcome::Done | FlushOutcome::Broken) {
                    session.wake.notify_one();
                }
                if batch.0 == WRITES_PER_SLICE || batch.1 >= BYTES_PER_SLICE || slice.is_over() {
                    worked += slice.worked();
                    slice.yield_now().await;
                    batch = (0, 0);
                }
            }
            worked += slice.worked();
            // Sessions that ended meanwhile must be closed now.
            drop(followers);
            let pause =
                Duration::from_secs_f64(bytes as f64 / PUBLISH_BYTES_PER_SECOND).max(worked * (PAUSE_PER_WORK + 1));
            let left = pause.min(MAX_PAUSE).saturating_sub(begin.elapsed());
            // Below the timer's resolution a pause would only add to every change.
            if left >= Duration::from_millis(1) {
                sleep(left).await;
            }
        }
    }
}
