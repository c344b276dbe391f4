//! Held sockets in the calls of gateways: which event of which session a call is about (`$.q.w`),
//! and the answer to the event `open`.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::json::{Text, is_object, put_text, read_member};

/// The event of a held socket for which a gateway calls its route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SocketEvent {
    /// `open`: a client asks for the socket. Its answer is a [`SocketWelcome`].
    Open,
    /// `message`: the client has sent a message, which is `params`.
    #[default]
    Message,
    /// `close`: the socket is gone for good.
    Close,
}

/// The held socket that a call is about: the member `w` of a client's request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketCall<'a> {
    /// `e`: the event.
    pub event: SocketEvent,
    /// `id`: the id of the session.
    pub session: Cow<'a, str>,
    /// `u`: the user that the answer to `open` has named.
    pub user: Option<Cow<'a, str>>,
}

impl SocketEvent {
    const ALL: [Self; 3] = [Self::Open, Self::Message, Self::Close];

    /// Its word on the wire.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Message => "message",
            Self::Close => "close",
        }
    }
}

impl<'a> SocketCall<'a> {
    /// Reads the member; `None` if it is not an object, or has no known event or no session.
    pub(super) fn parse(text: &'a RawValue) -> Option<Self> {
        #[derive(Deserialize)]
        struct RawSocketCall<'a> {
            #[serde(borrow, default)]
            e: Option<&'a RawValue>,
            #[serde(borrow, default)]
            id: Option<&'a RawValue>,
            #[serde(borrow, default)]
            u: Option<&'a RawValue>,
        }
        let raw: RawSocketCall<'a> = serde_json::from_str(text.get()).ok().filter(|_| is_object(text.get()))?;
        let Text(word) = read_member(raw.e)?;
        let Text(session) = read_member(raw.id)?;
        let event = SocketEvent::ALL.into_iter().find(|event| event.word() == word)?;
        Some(Self { event, session, user: read_member(raw.u).map(|Text(user)| user) })
    }

    /// A copy that borrows nothing.
    pub(super) fn to_static(&self) -> SocketCall<'static> {
        let owned = |text: &Cow<'_, str>| Cow::Owned(text.clone().into_owned());
        SocketCall { event: self.event, session: owned(&self.session), user: self.user.as_ref().map(owned) }
    }

    pub(super) fn write(&self, out: &mut BytesMut) {
        out.put_slice(br#"{"e":"#);
        put_text(out, self.event.word());
        out.put_slice(br#","id":"#);
        put_text(out, &self.session);
        if let Some(user) = &self.user {
            out.put_slice(br#","u":"#);
            put_text(out, user);
        }
        out.put_u8(b'}');
    }
}

/// A node's answer to the event `open`, by which it accepts the socket:
/// `{"user":"7","groups":["room:1"],"messages":["hello"]}`. `null` is one without members.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SocketWelcome<M = ()> {
    /// The user whose socket it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The groups that the session joins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// What the client is sent first.
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<M>,
}

/// How a socket was closed: the arguments of the event `close`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketClosed {
    /// The code of the close frame (RFC 6455, 7.4); 1006 if the client has gone without one.
    #[serde(default)]
    pub code: u16,
    /// Its reason, which is often empty.
    #[serde(default)]
    pub reason: String,
}

impl SocketWelcome<()> {
    /// Accepts the socket, of no user and in no group.
    pub fn new() -> Self {
        Self { user: None, groups: Vec::new(), messages: Vec::new() }
    }
}

impl Default for SocketWelcome<()> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M> SocketWelcome<M> {
    /// The user whose socket it is: a text by which it is pushed to, such as an account number.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// The session joins this group.
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.groups.push(group.into());
        self
    }

    /// The client is sent these messages before all others.
    #[must_use]
    pub fn messages<N>(self, messages: impl IntoIterator<Item = N>) -> SocketWelcome<N> {
        let Self { user, groups, messages: _ } = self;
        SocketWelcome { user, groups, messages: messages.into_iter().collect() }
    }
}

impl SocketWelcome<Box<RawValue>> {
    /// Reads the answer.
    ///
    /// # Errors
    /// It is something else.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let none = Self { user: None, groups: Vec::new(), messages: Vec::new() };
        Ok(serde_json::from_str::<Option<Self>>(text)?.unwrap_or(none))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_of_a_call_reads_back_or_counts_as_absent() {
        let check = |text: &str, expected: Option<(SocketEvent, &str, Option<&str>)>| {
            let seen = SocketCall::parse(serde_json::from_str(text).unwrap());
            let parts = seen.as_ref().map(|seen| (seen.event, &*seen.session, seen.user.as_deref()));
            assert_eq!(parts, expected, "{text}");
            if let Some(seen) = seen {
                let mut out = BytesMut::new();
                seen.write(&mut out);
                let again = serde_json::from_slice::<&RawValue>(&out).unwrap();
                assert_eq!(SocketCall::parse(again), Some(seen.to_static()));
            }
        };
        check(r#"{"e":"open","id":"a.1"}"#, Some((SocketEvent::Open, "a.1", None)));
        check(r#"{"id":"a.1","e":"message","u":"상"}"#, Some((SocketEvent::Message, "a.1", Some("상"))));
        check(r#"{"e":"close","id":"","u":7}"#, Some((SocketEvent::Close, "", None)));
        for other in [r#"{"e":"later","id":"a"}"#, r#"{"e":"open"}"#, r#"{"id":"a"}"#, "[]", "null", r#""open""#] {
            check(other, None);
        }
    }

    #[test]
    fn a_welcome_may_be_null() {
        let check = |text: &str, expected: Option<(Option<&str>, usize, usize)>| {
            let seen = SocketWelcome::parse(text).ok();
            let seen = seen.as_ref().map(|one| (one.user.as_deref(), one.groups.len(), one.messages.len()));
            assert_eq!(seen, expected, "{text}");
        };
        check("null", Some((None, 0, 0)));
        check("{}", Some((None, 0, 0)));
        check(r#"{"user":"7","groups":["a","b"],"messages":[null],"later":1}"#, Some((Some("7"), 2, 1)));
        check("7", None);
        let written = SocketWelcome::new().user("7").group("a").messages([1, 2]);
        check(&serde_json::to_string(&written).unwrap(), Some((Some("7"), 1, 2)));
        check(&serde_json::to_string(&SocketWelcome::new()).unwrap(), Some((None, 0, 0)));
        check(r#"{"user":7}"#, None);
    }
}
