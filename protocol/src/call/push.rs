//! What nodes tell gateways about the sockets that these hold: parts of the stream `GET/$push`.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The url of the stream that each gateway opens to each node that offers it. The node's parts are
/// commands, and the gateway's parts are reports.
pub const PUSH_URL: &str = "GET/$push";

/// The arguments with which a gateway opens the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushHello {
    /// What the ids of the sessions of this gateway begin with, up to the first dot.
    pub gateway: String,
}

/// A command of a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PushCommand<'a> {
    /// The number of the command, which its report repeats.
    pub n: u64,
    /// The sessions that it is about.
    #[serde(borrow)]
    pub to: PushTarget<'a>,
    /// What is done with them.
    #[serde(borrow, rename = "do")]
    pub action: PushAction<'a>,
}

/// The sessions that a command is about: `{"group":"room:1"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PushTarget<'a> {
    /// The session of this id.
    Session(#[serde(borrow)] Cow<'a, str>),
    /// All sessions of this user.
    User(#[serde(borrow)] Cow<'a, str>),
    /// All sessions that have joined this group.
    Group(#[serde(borrow)] Cow<'a, str>),
}

/// What a command does with sessions: `{"message":{"text":"hello"}}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PushAction<'a> {
    /// Sends them this message.
    #[serde(borrow)]
    Message(&'a RawValue),
    /// They join this group.
    Join(#[serde(borrow)] Cow<'a, str>),
    /// They leave this group.
    Leave(#[serde(borrow)] Cow<'a, str>),
    /// Closes their sockets.
    Close(#[serde(borrow)] PushClose<'a>),
    /// Lists them.
    List,
}

/// How sockets are closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushClose<'a> {
    /// The code of the close frame: 1000, or 3000 to 4999.
    pub code: u16,
    /// Its reason, which is cut after 123 bytes.
    #[serde(borrow, default)]
    pub reason: Cow<'a, str>,
}

/// A gateway's report on a command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushReport {
    /// The number of the command.
    pub n: u64,
    /// How many sessions it has reached.
    #[serde(default)]
    pub count: usize,
    /// Why it has not reached more; of several reasons the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed: Option<PushMiss>,
    /// The sessions that were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sessions: Vec<PresentSession>,
}

impl PushReport {
    /// Maximum number of sessions that one report lists: their ids take about 100 kB.
    pub const MAX_SESSIONS: usize = 1000;
}

/// Why a command has not reached a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PushMiss {
    /// The gateway holds no such session.
    Unknown,
    /// More waits for the client than its limit allows.
    Slow,
    /// The session is in as many groups as it may be, or the gateway has as many as it may have.
    Groups,
    /// The gateway cannot read the command.
    #[serde(other)]
    Unreadable,
}

/// A session that a gateway holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PresentSession {
    /// Its id.
    pub session: String,
    /// Its user, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_read_back() {
        let check = |text: &str| {
            let read: PushCommand<'_> = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), text);
        };
        check(r#"{"n":1,"to":{"session":"a.1"},"do":{"message":{"a":[1, 2]}}}"#);
        check(r#"{"n":2,"to":{"user":"상\n"},"do":{"join":"room:1"}}"#);
        check(r#"{"n":3,"to":{"group":"g"},"do":{"leave":"room:1"}}"#);
        check(r#"{"n":4,"to":{"group":"g"},"do":{"close":{"code":4000,"reason":"over"}}}"#);
        check(r#"{"n":5,"to":{"group":"g"},"do":"list"}"#);
        for wrong in [
            "{}",
            r#"{"n":1,"to":{"all":1},"do":"list"}"#,
            r#"{"n":1,"to":{"user":"u"},"do":"sing"}"#,
            r#"{"n":-1,"to":{"user":"u"},"do":"list"}"#,
        ] {
            assert!(serde_json::from_str::<PushCommand<'_>>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn reports_leave_out_what_they_do_not_have() {
        let check = |report: PushReport, text: &str| {
            assert_eq!(serde_json::to_string(&report).unwrap(), text);
            assert_eq!(serde_json::from_str::<PushReport>(text).unwrap(), report);
        };
        check(PushReport { n: 1, count: 3, ..PushReport::default() }, r#"{"n":1,"count":3}"#);
        let slow = PushReport { n: 2, missed: Some(PushMiss::Slow), ..PushReport::default() };
        check(slow, r#"{"n":2,"count":0,"missed":"slow"}"#);
        let present = PresentSession { session: "a.1".to_owned(), user: None };
        let listed = PushReport { n: 3, count: 1, sessions: vec![present], ..PushReport::default() };
        check(listed, r#"{"n":3,"count":1,"sessions":[{"session":"a.1"}]}"#);
        let later: PushReport = serde_json::from_str(r#"{"n":4,"missed":"later","x":1}"#).unwrap();
        assert_eq!(later.missed, Some(PushMiss::Unreadable));
    }
}
