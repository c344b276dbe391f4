//! The checks of the registry half: what a node registers, and what it does with all that a
//! Distributor says. The program plays the Distributor. The doc comment of each check says what it
//! expects; `--help` and the table show it.
//!
//! It must not print, or decide the exit code: the command line does.

mod list;
mod played;
mod run;
#[cfg(test)]
mod tests;

use clap::ValueEnum;

pub(crate) use self::played::{Patience, PlayedDistributor};

/// A property that a node is checked for when it registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RegistryCheck {
    /// the node registers a port on which it listens, a name, urls, and the id of its instance
    Register,
    /// an id that is made of a secret comes with that secret
    InstanceProof,
    /// what the node states of its routes names urls that it has, makes no event public, and reads
    /// header fields that there can be
    StatedRoutes,
    /// a list that asks for it is acknowledged with its state and digest, however entries are
    /// spelled
    List,
    /// a list may come in pieces, and several packets at once
    ListInPieces,
    /// members that the node does not know are ignored, in lists, changes and entries
    ListUnknownMembers,
    /// entries that were packed are read, if the node says that it reads them
    ListPacked,
    /// a change adds, replaces and removes entries
    Change,
    /// a change of an earlier state is ignored
    ChangeStale,
    /// after a change of a state that the node does not have, it keeps what it has and asks for the
    /// list
    ChangeOtherBase,
    /// after a change that does not lead to its digest, the node keeps what it has and asks for the
    /// list
    ChangeWrongDigest,
    /// a ping is answered with a pong and the state that the node has
    Ping,
    /// a ping with another digest of the same state makes the node ask for the list
    PingOtherDigest,
    /// packets that the node does not know are ignored
    UnknownPacket,
    /// a notice with a word that the node does not know is not taken for an empty list
    UnknownWord,
    /// after a refusal that gives no time, the list stays, and the node does not register again
    Refusal,
    /// a request for a copy is answered with all entries, in packets of 64 KiB at most
    Copy,
    /// a node that is held back waits on the connection, and does not register again
    HeldBack,
    /// a node that finds the Distributor busy registers again, and not earlier than it may
    Busy,
    /// a node that is told that a newer connection has superseded this one does not register on it
    /// again
    Superseded,
    /// a node whose Distributor has died tries again every 3 s, and says what it knows
    Reconnect,
    /// a node that comes back takes the changes since the state that it has
    Resume,
    /// a node that comes back takes changes of a later epoch that begin at the state that it has
    NewEpoch,
    /// a node gives up a Distributor that is silent for 15 s (only if --only names it)
    Silence,
}

impl RegistryCheck {
    /// Whether it takes so long that it is done only if `--only` names it.
    pub(crate) fn is_slow(self) -> bool {
        self == Self::Silence
    }
}
