//! Calls as raw text, and the node's answers.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use protocol::{FrameDecoder, Members, is_blank};
use serde_json::{Map, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Maximum bytes of an answer: every caller accepts this many.
const MAX_FRAME_BYTES: usize = 8 << 20;
/// How long connecting may take. A node in the same network accepts a connection much sooner.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Characters of an answer that are shown.
const SHOWN_CHARS: usize = 120;

/// The node that is checked, and how to call it.
#[derive(Clone, Debug)]
pub(crate) struct NodeUnderTest {
    pub(crate) address: SocketAddr,
    pub(crate) method: String,
    pub(crate) uri: String,
    pub(crate) params: Map<String, Value>,
    /// How long an answer may take.
    pub(crate) within: Duration,
}

/// Where a call has its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyPosition {
    Top,
    Params,
    Both,
    Nowhere,
}

impl NodeUnderTest {
    /// A call whose key is this JSON text, with `more` members such as `,"$":{}`.
    pub(crate) fn call(&self, key: &str, position: KeyPosition, more: &str) -> String {
        let (method, uri) = (text(&self.method), text(&self.uri));
        let top = if matches!(position, KeyPosition::Top | KeyPosition::Both) {
            format!(r#","key":{key}"#)
        } else {
            String::new()
        };
        let params = self.params.iter().filter(|(name, _)| *name != "key");
        let mut params: Vec<_> =
            params.map(|(name, value)| format!("{}:{}", text(name), escaped(&value.to_string()))).collect();
        if matches!(position, KeyPosition::Params | KeyPosition::Both) {
            params.push(format!(r#""key":{key}"#));
        }
        format!(r#"{{"uri":{uri},"method":{method}{top},"params":{{{}}}{more}}}¶"#, params.join(","))
    }

    pub(crate) async fn connect(&self) -> Result<Wire, String> {
        Wire::connect(self.address).await
    }

    /// Calls the node over a new connection, to find out whether it still works.
    pub(crate) async fn answer_to_a_fresh_call(&self) -> Result<NodeResponse, String> {
        let mut wire = self.connect().await?;
        wire.send(self.call("1", KeyPosition::Both, "")).await;
        wire.answer("1", self.within).await
    }
}

/// A text as JSON without a raw delimiter.
fn text(text: &str) -> String {
    escaped(&Value::from(text).to_string())
}

fn escaped(json: &str) -> String {
    json.replace('¶', "\\u00b6")
}

/// One connection to the node.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    decoder: FrameDecoder,
}

impl Wire {
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self, String> {
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => Ok(Self::over(stream)),
            Ok(Err(error)) => Err(format!("cannot connect: {error}")),
            Err(_) => Err("cannot connect: no answer".to_owned()),
        }
    }

    /// A connection that is there already.
    pub(crate) fn over(stream: TcpStream) -> Self {
        // The system should send pieces as they are written. If it refuses, they may be joined, and
        // the checks see less.
        let _ = stream.set_nodelay(true);
        Self { stream, decoder: FrameDecoder::new(MAX_FRAME_BYTES) }
    }

    /// Writes bytes. An error is ignored here, because reading the answer then fails as well.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// Closes the sending side of the connection.
    pub(crate) async fn close_our_side(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// The next frame that is not empty, the end of the stream, or nothing in this time.
    pub(crate) async fn next(&mut self, within: Duration) -> Received {
        let next = async {
            loop {
                match self.decoder.next_frame() {
                    Ok(Some(frame)) if is_blank(&frame) => continue,
                    Ok(Some(frame)) => return Received::Frame(String::from_utf8_lossy(&frame).into_owned()),
                    Ok(None) => {}
                    Err(too_large) => return Received::Frame(too_large.to_string()),
                }
                match self.stream.read_buf(self.decoder.buffer()).await {
                    Ok(0) | Err(_) => return Received::End,
                    Ok(_) => {}
                }
            }
        };
        timeout(within, next).await.unwrap_or(Received::Nothing)
    }

    /// Expects the answer to this key, and returns it; otherwise returns what came. A version 1
    /// node may answer the key `7` with `"7"`.
    pub(crate) async fn answer(&mut self, key: &str, within: Duration) -> Result<NodeResponse, String> {
        let came = self.next(within).await;
        let answer = match &came {
            Received::Frame(text) => NodeResponse::parse(text),
            Received::End | Received::Nothing => None,
        };
        let is_it = |answer: &NodeResponse| answer.get("key").is_some_and(|seen| unquoted(seen) == unquoted(key));
        answer.filter(is_it).ok_or_else(|| came.to_string())
    }
}

fn unquoted(key: &str) -> String {
    serde_json::from_str(key).unwrap_or_else(|_| key.to_owned())
}

/// The packets that were received over a connection.
#[derive(Debug)]
pub(crate) enum Received {
    Frame(String),
    End,
    Nothing,
}

impl fmt::Display for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(text) => f.write_str(&shown(text)),
            Self::End => f.write_str("the connection was closed"),
            Self::Nothing => f.write_str("silence"),
        }
    }
}

/// Foreign text, cut and made safe to print in a terminal.
pub(crate) fn shown(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars().take(SHOWN_CHARS) {
        if c.is_control() { shown.extend(c.escape_debug()) } else { shown.push(c) }
    }
    if text.chars().nth(SHOWN_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

/// An answer, with the JSON text of its members unchanged.
#[derive(Debug)]
pub(crate) struct NodeResponse {
    pub(crate) text: String,
    members: Vec<(String, String)>,
}

impl NodeResponse {
    /// `None` when it is not a JSON object, or has a member twice.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let Members(members) = serde_json::from_str(text).ok()?;
        let members: Vec<_> =
            members.into_iter().map(|(name, value)| (name.into_owned(), value.get().to_owned())).collect();
        let once = |name: &str| members.iter().filter(|(other, _)| other == name).count() == 1;
        members.iter().all(|(name, _)| once(name)).then(|| Self { text: text.to_owned(), members: members.clone() })
    }

    /// The JSON text of a member.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.members.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// `$`, when it is an object.
    pub(crate) fn meta(&self) -> Option<Map<String, Value>> {
        serde_json::from_str(self.get("$")?).ok()
    }

    /// Whether it says, in either form, that the call failed.
    pub(crate) fn is_failure(&self) -> bool {
        match self.meta() {
            Some(meta) => meta.get("s").is_some_and(|status| status.as_u64().is_none_or(|status| status >= 400)),
            None => self.get("errorcode").is_some_and(|code| !matches!(code, "0" | "\"0\"" | "null")),
        }
    }

    /// The fault of its form for a caller of version 1, if there is one.
    pub(crate) fn check_form_1(&self) -> Result<(), String> {
        match (self.get("errorcode"), self.get("$")) {
            (Some(_), None) => Ok(()),
            _ => Err(shown(&self.text)),
        }
    }

    /// The fault of its form for a caller of version 2, if there is one.
    pub(crate) fn check_form_2(&self) -> Result<(), String> {
        match (self.meta(), self.get("errorcode")) {
            (Some(_), None) => Ok(()),
            _ => Err(shown(&self.text)),
        }
    }
}
