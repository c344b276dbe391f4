//! The notices that a peer is still to be sent: one of each kind.

use bytes::Bytes;

/// What a notice is about. The newest of a kind replaces one that still waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoticeKind {
    /// The Distributor asks for a copy of the list.
    CopyRequest,
    /// Enough nodes have seen its registration, or not in time.
    Visibility,
    /// Something is wrong with the node, though it is listed.
    Warning(Warning),
}

/// What is wrong with a node that is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Warning {
    /// There is no room for what the node uses.
    UsesFull,
    /// Others cannot connect to the node.
    Unreachable,
    /// A part of the registration is ignored.
    Ignored,
}

impl Warning {
    /// The stable word of the warning.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::UsesFull => "uses_full",
            Self::Unreachable => "unreachable",
            Self::Ignored => "ignored",
        }
    }
}

/// The notices that wait, in the order of their coming. They are as many as there are kinds at
/// most, because none may stand in for another: a node that is not told `UsesFull` waits in vain,
/// and one that is not asked for its copy holds up a restart.
#[derive(Debug, Default)]
pub(super) struct Notices {
    waiting: Vec<(NoticeKind, Bytes)>,
}

impl Notices {
    /// Owes the peer this notice, in place of one of its kind that still waits.
    pub(super) fn set(&mut self, kind: NoticeKind, packet: Bytes) {
        match self.waiting.iter_mut().find(|(other, _)| *other == kind) {
            Some((_, waiting)) => *waiting = packet,
            None => self.waiting.push((kind, packet)),
        }
    }

    /// The notice to send first.
    pub(super) fn first(&self) -> Option<&Bytes> {
        self.waiting.first().map(|(_, packet)| packet)
    }

    /// The first notice is sent. Returns whether there was one.
    pub(super) fn remove_first(&mut self) -> bool {
        if self.waiting.is_empty() {
            return false;
        }
        self.waiting.remove(0);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The texts that are sent, when notices of these kinds with these texts have come before.
    #[track_caller]
    fn check(come: &[(NoticeKind, &'static str)], expected: &[&str]) {
        let mut notices = Notices::default();
        come.iter().for_each(|(kind, text)| notices.set(*kind, Bytes::from_static(text.as_bytes())));
        for text in expected {
            assert_eq!(notices.first().map(|packet| &**packet), Some(text.as_bytes()));
            assert!(notices.remove_first());
        }
        assert_eq!(notices.first(), None);
        assert!(!notices.remove_first());
    }

    #[test]
    fn a_notice_replaces_only_one_of_its_kind() {
        use NoticeKind::{CopyRequest, Visibility};
        let [full, lost, ignored] =
            [Warning::UsesFull, Warning::Unreachable, Warning::Ignored].map(NoticeKind::Warning);
        check(&[], &[]);
        check(&[(full, "a")], &["a"]);
        check(&[(full, "a"), (Visibility, "b")], &["a", "b"]);
        check(&[(full, "a"), (full, "b")], &["b"]);
        let all = [(ignored, "a"), (lost, "b"), (CopyRequest, "c"), (Visibility, "d"), (full, "e")];
        check(&all, &["a", "b", "c", "d", "e"]);
        let twice: Vec<_> = all.iter().chain(&[(full, "f"), (ignored, "g")]).copied().collect();
        check(&twice, &["g", "b", "c", "d", "f"]);
    }
}
