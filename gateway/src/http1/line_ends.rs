//! The ends of lines: requests are read strictly, responses liberally. Pure.

/// The bytes that end a line of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LineEnds {
    /// CR and LF, as in requests: with LF alone, two gateways in a row may see two requests where
    /// one was sent.
    #[default]
    Strict,
    /// LF alone, too, as in responses: servers are chosen by the operator, and some end their lines
    /// so (RFC 9112, 2.2).
    Liberal,
}

impl LineEnds {
    /// Where the text of a line ends that begins at `start` and whose LF stands at `line_feed`;
    /// `None` when it must not end so.
    pub(crate) fn text_end(self, bytes: &[u8], start: usize, line_feed: usize) -> Option<usize> {
        let has_return = line_feed > start && bytes[line_feed - 1] == b'\r';
        match self {
            _ if has_return => Some(line_feed - 1),
            Self::Strict => None,
            Self::Liberal => Some(line_feed),
        }
    }
}
