//! The checks. The doc comment of each says what it expects; `--help` and the table show it.
//!
//! It must not print, or decide the exit code: the command line does.

mod run;
#[cfg(test)]
mod tests;

use clap::ValueEnum;

/// A property that a node is checked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Check {
    /// a call is answered
    Whole,
    /// a call in pieces of one byte is answered
    OneBytePieces,
    /// a call in two pieces is answered, wherever it is split
    SplitAnywhere,
    /// each of many calls in one segment is answered once, in any order
    ManyAtOnce,
    /// a key that is a number comes back as it was
    KeyNumber,
    /// a key that is text comes back as text
    KeyText,
    /// a key beyond 2^53 comes back digit by digit
    KeyLong,
    /// a key at top level is found
    KeyAtTop,
    /// a key inside params is found
    KeyInParams,
    /// a key in both places is found
    KeyInBoth,
    /// an escaped delimiter in text comes back escaped, never raw
    EscapedDelimiter,
    /// unknown members are ignored
    UnknownMembers,
    /// the order of members, and white space between them, mean nothing
    MemberOrder,
    /// empty frames and line ends are ignored
    BlankFrames,
    /// a caller of version 1 is answered with an errorcode and without $
    Version1Form,
    /// a caller of version 2 is answered with $ and without an errorcode
    Version2Form,
    /// a caller of version 2 learns of a failure by status, word and text
    Version2Failure,
    /// each packet is answered in its own form, independent of earlier packets
    MixedVersions,
    /// a call is answered once
    AnsweredOnce,
    /// a call without a key is never answered
    OneWay,
    /// a packet whose params are a text, as in version 1 nodes' logs, is never answered
    OldLog,
    /// a caller that closes its side after a call still gets the answer
    HalfClose,
    /// $cancel and other packets of later versions are ignored in silence
    LaterPackets,
    /// a call that is made for the client of a gateway is answered, whatever its request says
    ClientRequest,
    /// a caller that wants another instance is told the id of this one, and is refused
    WrongInstance,
    /// a call that accepts a stream is answered by one response, or by parts that wait for credit
    /// and end
    Stream,
    /// a method that the node does not know is an error, not silence
    UnknownMethod,
    /// a uri that the node does not know is an error, not silence
    UnknownUri,
    /// broken JSON costs its packet or its connection, and nothing else
    BrokenJson,
    /// bytes that are not UTF-8 cost their packet or their connection, and nothing else
    BrokenText,
    /// JSON that is not an object costs its packet or its connection, and nothing else
    NoObject,
    /// a call without params is answered
    MissingParams,
}

impl Check {
    pub(crate) fn is_of_version_2(self) -> bool {
        matches!(
            self,
            Self::Version2Form
                | Self::Version2Failure
                | Self::MixedVersions
                | Self::LaterPackets
                | Self::ClientRequest
                | Self::WrongInstance
                | Self::Stream
        )
    }

    /// Whether known nodes of version 1 crash on this check, so that it runs first. If the node is
    /// started again, the other checks see a node that works.
    pub(crate) fn is_deadly(self) -> bool {
        self == Self::MissingParams
    }

    /// Whether a node of version 1 is checked for this only if `--only` names it: a version 1
    /// service may carry out any packet with the method `POST`.
    pub(crate) fn is_only_when_asked(self) -> bool {
        self == Self::OldLog
    }

    /// Whether the mesh works with a node of version 1 that fails this check: the mesh never sends
    /// what the check sends, or accepts what the node answers.
    pub(crate) fn does_the_mesh_cope(self) -> bool {
        match self {
            Self::Whole
            | Self::ManyAtOnce
            | Self::KeyNumber
            | Self::KeyInBoth
            | Self::Version1Form
            | Self::Version2Form
            | Self::Version2Failure
            | Self::MixedVersions
            | Self::LaterPackets
            | Self::ClientRequest
            | Self::WrongInstance
            | Self::Stream => false,
            Self::OneBytePieces
            | Self::SplitAnywhere
            | Self::KeyText
            | Self::KeyLong
            | Self::KeyAtTop
            | Self::KeyInParams
            | Self::EscapedDelimiter
            | Self::UnknownMembers
            | Self::MemberOrder
            | Self::BlankFrames
            | Self::AnsweredOnce
            | Self::OneWay
            | Self::OldLog
            | Self::HalfClose
            | Self::UnknownMethod
            | Self::UnknownUri
            | Self::BrokenJson
            | Self::BrokenText
            | Self::NoObject
            | Self::MissingParams => true,
        }
    }
}
