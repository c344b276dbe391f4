//! Pushes to the clients whose sockets gateways hold.

use std::borrow::Cow;

use protocol::{PresentSession, PushAction, PushClose, PushMiss, PushReport, PushTarget};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::peers::Peers;
use crate::push::{MAX_MESSAGE_BYTES, PushError};

/// Functions for the clients of held sockets: see [`Sockets`](crate::Sockets). The node must
/// [push](crate::NodeBuilder::pushes), which one with sockets does. All wait for the gateways'
/// reports, for 5 s at most. Dropping the future may be too late to take a command back.
impl Peers {
    /// Sends a client a message. Done when its gateway has it in the client's queue; over a
    /// connection that is lost, it may still be lost, unless the session is
    /// [resumed](crate::Sockets::resume).
    ///
    /// ```no_run
    /// # use node_sdk::{Peers, PushError, Session};
    /// # async fn example(peers: Peers, session: Session) -> Result<(), PushError> {
    /// peers.push(&session, &"hello").await?;
    /// let reached = peers.push_group("room:1", &"hello, all").await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`PushError`].
    pub async fn push(&self, session: impl AsRef<str>, message: &impl Serialize) -> Result<(), PushError> {
        let message = raw(message)?;
        self.command(session.as_ref(), PushAction::Message(&message)).await
    }

    /// Sends all clients of a user a message. Returns how many sessions have it; 0 if the user has
    /// none now. A gateway that does not report is left out, with a warning in the log.
    ///
    /// # Errors
    /// [`PushError::Message`] and [`PushError::TooLarge`].
    pub async fn push_user(&self, user: &str, message: &impl Serialize) -> Result<usize, PushError> {
        self.push_all(PushTarget::User(user.into()), message).await
    }

    /// Sends all clients that have joined a group a message, as [`push_user`](Self::push_user)
    /// does.
    ///
    /// # Errors
    /// [`PushError::Message`] and [`PushError::TooLarge`].
    pub async fn push_group(&self, group: &str, message: &impl Serialize) -> Result<usize, PushError> {
        self.push_all(PushTarget::Group(group.into()), message).await
    }

    /// Lets a session join a group. Nothing happens if it has joined.
    ///
    /// # Errors
    /// [`PushError`].
    pub async fn join_group(&self, session: impl AsRef<str>, group: &str) -> Result<(), PushError> {
        self.command(session.as_ref(), PushAction::Join(group.into())).await
    }

    /// Lets a session leave a group. Nothing happens if it has not joined.
    ///
    /// # Errors
    /// [`PushError`].
    pub async fn leave_group(&self, session: impl AsRef<str>, group: &str) -> Result<(), PushError> {
        self.command(session.as_ref(), PushAction::Leave(group.into())).await
    }

    /// Closes the socket of a session, after the messages that wait: with 1000, or a code of the
    /// service's own from 3000 to 4999. Other codes become 1000.
    ///
    /// # Errors
    /// [`PushError`].
    pub async fn close_session(&self, session: impl AsRef<str>, code: u16, reason: &str) -> Result<(), PushError> {
        self.command(session.as_ref(), PushAction::Close(PushClose { code, reason: reason.into() })).await
    }

    /// The sessions that have joined a group, on all gateways: 1000 of each at most. A session
    /// whose socket was cut is among them as long as it can be resumed.
    pub async fn present(&self, group: &str) -> Vec<PresentSession> {
        self.list(PushTarget::Group(group.into())).await
    }

    /// The sessions of a user, as [`present`](Self::present) has those of a group.
    pub async fn present_user(&self, user: &str) -> Vec<PresentSession> {
        self.list(PushTarget::User(user.into())).await
    }

    async fn list(&self, target: PushTarget<'_>) -> Vec<PresentSession> {
        let reports = self.push_links().to_all(&target, &PushAction::List).await.unwrap_or_default();
        reports.into_iter().flat_map(|report| report.sessions).collect()
    }

    async fn push_all(&self, target: PushTarget<'_>, message: &impl Serialize) -> Result<usize, PushError> {
        let message = raw(message)?;
        let reports = self.push_links().to_all(&target, &PushAction::Message(&message)).await?;
        Ok(reports.iter().map(|report| report.count).sum())
    }

    async fn command(&self, session: &str, action: PushAction<'_>) -> Result<(), PushError> {
        let report = self.push_links().to_session(session, action).await?;
        outcome(&report, session)
    }
}

fn raw(message: &impl Serialize) -> Result<Cow<'static, RawValue>, PushError> {
    let message = to_raw_value(message).map_err(PushError::Message)?;
    match message.get().len() {
        bytes if bytes > MAX_MESSAGE_BYTES => Err(PushError::TooLarge { bytes, max: MAX_MESSAGE_BYTES }),
        _ => Ok(Cow::Owned(message)),
    }
}

/// What a report on one session says.
fn outcome(report: &PushReport, session: &str) -> Result<(), PushError> {
    let session = || session.to_owned();
    match report.missed {
        None => Ok(()),
        Some(PushMiss::Unknown) => Err(PushError::Ended { session: session() }),
        Some(PushMiss::Slow) => Err(PushError::Slow { session: session() }),
        Some(PushMiss::Groups) => Err(PushError::Groups { session: session() }),
        Some(PushMiss::Unreadable) => Err(PushError::NotKnown),
    }
}
