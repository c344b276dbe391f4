//! Why a caller cannot reach a node.

/// Why a caller has no connection to a node, or none that it may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unreachable {
    /// The connection was refused.
    Refused,
    /// There was no answer in time.
    Timeout,
    /// The network does not reach the host.
    HostUnreachable,
    /// The name of the host could not be looked up.
    UnknownName,
    /// Another instance listens there.
    WrongInstance,
    /// The process that listens there does not identify itself as a node.
    NoNode,
    /// The address is one that the caller never calls.
    Forbidden,
    /// The system gave another reason.
    Other,
}

const ALL: [Unreachable; 8] = [
    Unreachable::Refused,
    Unreachable::Timeout,
    Unreachable::HostUnreachable,
    Unreachable::UnknownName,
    Unreachable::WrongInstance,
    Unreachable::NoNode,
    Unreachable::Forbidden,
    Unreachable::Other,
];

impl Unreachable {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::HostUnreachable => "no_way",
            Self::UnknownName => "unknown_name",
            Self::WrongInstance => "wrong_instance",
            Self::NoNode => "no_node",
            Self::Forbidden => "forbidden",
            Self::Other => "other",
        }
    }

    /// Reads the word. One that is not known is [`Other`](Self::Other).
    pub fn from_word(word: &str) -> Self {
        ALL.into_iter().find(|reason| reason.as_str() == word).unwrap_or(Self::Other)
    }

    /// What is wrong, for people.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Refused => "nothing listens there: the connection was refused",
            Self::Timeout => "there was no answer: perhaps a firewall or a NAT is in between",
            Self::HostUnreachable => "the network does not reach that host",
            Self::UnknownName => "its name cannot be looked up",
            Self::WrongInstance => "another process listens there",
            Self::NoNode => "what listens there does not say that it is this node",
            Self::Forbidden => "the caller never calls that address",
            Self::Other => "the connection failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_back() {
        for reason in ALL {
            assert_eq!(Unreachable::from_word(reason.as_str()), reason);
        }
        assert_eq!(Unreachable::from_word("of a later version"), Unreachable::Other);
    }
}
