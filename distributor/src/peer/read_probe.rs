//! Finds out whether a version 1 node that was reported still reads its socket.

use std::time::{Duration, Instant};

/// How long a node may take to read a list before others are preferred: as long as version 2 nodes
/// have to answer a ping.
const SUSPECT_AFTER: Duration = Duration::from_millis(750);
/// After how long it counts as gone, and how often it must have been observed by then, so that time
/// in which this process did not run counts against no node.
const HUNG_AFTER: Duration = Duration::from_secs(10);
const MIN_OBSERVATIONS: u32 = 10;

/// A list that a version 1 node on this machine was sent once more, to see whether it reads it.
#[derive(Debug)]
pub(crate) struct ReadProbe {
    since: Instant,
    /// Bytes that had been written before that list.
    written: u64,
    observations: u32,
    is_suspect: bool,
}

/// The result of the probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProbeResult {
    /// Nothing new: the peer has to be observed again.
    Waiting,
    /// The peer has not read for a moment.
    Suspect,
    /// The peer reads.
    Reads,
    /// The peer does not read.
    Hung,
    /// The system does not show whether the peer reads.
    Hidden,
}

impl ReadProbe {
    /// Begins when the list is about to be sent, after `written` bytes.
    pub(crate) fn new(now: Instant, written: u64) -> Self {
        Self { since: now, written, observations: 0, is_suspect: false }
    }

    /// Records that the peer is known to have `read` this many bytes. It has to be observed again
    /// after `Waiting` and `Suspect` only.
    pub(crate) fn observe(&mut self, now: Instant, read: Option<u64>) -> ProbeResult {
        let Some(read) = read else { return ProbeResult::Hidden };
        if read > self.written {
            return ProbeResult::Reads;
        }
        self.observations += 1;
        let waited = now.saturating_duration_since(self.since);
        if waited >= HUNG_AFTER && self.observations >= MIN_OBSERVATIONS {
            return ProbeResult::Hung;
        }
        if waited >= SUSPECT_AFTER && self.observations > 1 && !std::mem::replace(&mut self.is_suspect, true) {
            return ProbeResult::Suspect;
        }
        ProbeResult::Waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn e18_a_node_that_does_not_read_is_suspect_and_then_gone() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut probe = ReadProbe::new(start, 100);
        let observed = (1..=40).map(|tick| (tick * 250, probe.observe(at(tick * 250), Some(100))));
        let seen: Vec<_> = observed.filter(|(_, seen)| *seen != ProbeResult::Waiting).collect();
        assert_eq!(seen, [(750, ProbeResult::Suspect), (10_000, ProbeResult::Hung)]);
        for (ms, read, expected) in [
            // One observation after a long pause says little.
            (60_000, Some(100), ProbeResult::Waiting),
            (60_001, Some(100), ProbeResult::Suspect),
            (60_002, Some(101), ProbeResult::Reads),
            (60_003, None, ProbeResult::Hidden),
        ] {
            let mut probe = ReadProbe { observations: u32::from(ms > 60_000), ..ReadProbe::new(start, 100) };
            assert_eq!(probe.observe(at(ms), read), expected, "{ms}");
        }
    }
}
