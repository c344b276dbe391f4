//! The played Distributor: where nodes register, and the session with the one that is checked.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use protocol::{Digest, Revision};
use serde_json::{Map, Value};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};

use super::list::PlayedList;
use crate::wire::{NodeResponse, Received, Wire, shown};

/// How long binding an address again is tried, after the program has freed it itself.
const BIND_PAUSE: Duration = Duration::from_millis(50);

/// How long the first registration is waited for at a time.
const FOREVER: Duration = Duration::from_secs(86_400);

/// A Distributor with one node.
#[derive(Debug)]
pub(crate) struct PlayedDistributor {
    pub(crate) address: SocketAddr,
    listener: Option<TcpListener>,
    session: Option<Session>,
    pub(super) list: PlayedList,
    /// The id of the node's entry, if it is listed.
    own: Option<u64>,
    pub(super) patience: Patience,
}

/// How long a node may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// To answer.
    pub(crate) within: Duration,
    /// To register again.
    pub(crate) return_time: Duration,
    /// To give up a Distributor that is silent.
    pub(crate) silence: Duration,
}

#[derive(Debug)]
struct Session {
    wire: Wire,
    registered: Registered,
}

/// What a node has registered.
#[derive(Clone, Debug)]
pub(super) struct Registered {
    /// The JSON text of `params`.
    text: String,
    pub(super) params: Map<String, Value>,
    /// The `$` of the packet, which only a Distributor sees.
    pub(super) options: Map<String, Value>,
    /// Where the node comes from.
    pub(super) host: IpAddr,
}

impl Registered {
    /// The `$` of `params`, which all nodes see.
    pub(super) fn advert(&self) -> Map<String, Value> {
        self.params.get("$").and_then(Value::as_object).cloned().unwrap_or_default()
    }

    pub(super) fn id(&self) -> Option<String> {
        self.advert().get("id")?.as_str().map(str::to_owned)
    }

    /// Its entry in a list: what it sent, and its host.
    fn entry(&self) -> String {
        let host = match self.host {
            IpAddr::V4(host) => format!("::ffff:{host}"),
            IpAddr::V6(host) => host.to_string(),
        };
        let members = self.text.strip_suffix('}').unwrap_or(&self.text);
        format!(r#"{members},"host":"{host}"}}"#)
    }
}

/// The kind of a packet that a node sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Registration,
    ListRequest,
    Copy,
    Pong,
}

impl Kind {
    fn of(packet: &NodeResponse) -> Option<Self> {
        match (packet.get("uri")?, packet.get("method").unwrap_or_default()) {
            (r#""/distributes""#, r#""POST""#) => Some(Self::Registration),
            (r#""/distributes""#, r#""GET""#) => Some(Self::ListRequest),
            (r#""/distributes""#, r#""PUT""#) => Some(Self::Copy),
            (r#""$pong""#, _) => Some(Self::Pong),
            _report_or_later => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Registration => "a registration",
            Self::ListRequest => "a request for the list",
            Self::Copy => "a copy",
            Self::Pong => "a pong",
        })
    }
}

impl PlayedDistributor {
    pub(crate) async fn bind(address: SocketAddr, patience: Patience) -> Result<Self, std::io::Error> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { address, listener: Some(listener), session: None, list: PlayedList::new(), own: None, patience })
    }

    /// Waits for the first registration of a node, for ever.
    pub(crate) async fn wait_for_node(&mut self) -> String {
        loop {
            if self.accept(FOREVER).await.is_ok()
                && let Some(name) = self.registered().ok().and_then(|registered| registered.params.get("name"))
            {
                return shown(&name.to_string());
            }
        }
    }

    /// Whether the node is registered, or comes back.
    pub(crate) async fn has_node(&mut self) -> bool {
        self.session.is_some() || self.next_session().await.is_ok()
    }

    /// What the node has registered on this connection.
    pub(super) fn registered(&self) -> Result<&Registered, String> {
        self.session.as_ref().map(|session| &session.registered).ok_or_else(|| "the node has gone".to_owned())
    }

    /// Ends the session, and waits until the node has registered on another connection. It is told
    /// nothing yet.
    pub(super) async fn next_session(&mut self) -> Result<(), String> {
        self.session = None;
        self.accept(self.patience.return_time).await
    }

    /// Stops listening, and ends the session.
    pub(super) fn die(&mut self) {
        self.session = None;
        self.listener = None;
    }

    /// Listens again.
    pub(super) async fn revive(&mut self) -> Result<(), String> {
        let end = Instant::now() + self.patience.within;
        loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => {
                    self.listener = Some(listener);
                    return Ok(());
                }
                Err(error) if Instant::now() >= end => return Err(format!("cannot listen again: {error}")),
                Err(_) => tokio::time::sleep(BIND_PAUSE).await,
            }
        }
    }

    async fn accept(&mut self, within: Duration) -> Result<(), String> {
        let Some(listener) = &self.listener else { return Err("nothing listens".to_owned()) };
        let accepted = timeout(within, listener.accept()).await;
        let (stream, from) = accepted
            .map_err(|_late| format!("the node has not come back within {within:?}"))?
            .map_err(|error| error.to_string())?;
        let mut wire = Wire::over(stream);
        let came = wire.next(self.patience.within).await;
        let seen = format!("a registration was due on a new connection: {came}");
        let Received::Frame(text) = came else { return Err(seen) };
        let packet = NodeResponse::parse(&text).filter(|packet| Kind::of(packet) == Some(Kind::Registration));
        let packet = packet.ok_or_else(|| seen.clone())?;
        let registered = read_registration(&packet, from.ip()).ok_or(seen)?;
        self.session = Some(Session { wire, registered });
        if let Some(own) = self.own.take() {
            self.list.remove(own);
        }
        Ok(())
    }

    /// Lists the node, if it is not listed yet.
    pub(super) fn list_node(&mut self) -> Result<u64, String> {
        if let Some(own) = self.own {
            return Ok(own);
        }
        let entry = self.registered()?.entry();
        let own = self.list.put(entry);
        self.own = Some(own);
        Ok(own)
    }

    /// Sees to it that the node is registered, and knows the list.
    pub(super) async fn settle(&mut self) -> Result<(), String> {
        if self.session.is_none() {
            self.next_session().await?;
        }
        self.list_node()?;
        self.list.revision.rev += 1;
        self.send(&self.list.whole("0", "")).await?;
        self.expect_state().await.map(drop)
    }

    /// Sends a packet, whose delimiter is added.
    pub(super) async fn send(&mut self, text: &str) -> Result<(), String> {
        self.send_bytes(format!("{text}¶").as_bytes()).await
    }

    pub(super) async fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), String> {
        let session = self.session.as_mut().ok_or("the node has gone")?;
        session.wire.send(bytes).await;
        Ok(())
    }

    /// The next packet of one of these kinds. Others are skipped, but a registration never is.
    pub(super) async fn expect(&mut self, kinds: &[Kind], within: Duration) -> Result<(Kind, NodeResponse), String> {
        let end = Instant::now() + within;
        let due = kinds.iter().map(Kind::to_string).collect::<Vec<_>>().join(" or ");
        loop {
            let Some(session) = &mut self.session else { return Err(format!("{due} was due, and the node has gone")) };
            let came = session.wire.next(end.saturating_duration_since(Instant::now())).await;
            let seen = format!("{due} was due: {came}");
            match came {
                Received::Frame(text) => {
                    let packet = NodeResponse::parse(&text).ok_or_else(|| seen.clone())?;
                    match Kind::of(&packet) {
                        Some(kind) if kinds.contains(&kind) => return Ok((kind, packet)),
                        Some(Kind::Registration) => return Err(seen),
                        Some(Kind::ListRequest | Kind::Copy | Kind::Pong) | None => {}
                    }
                }
                Received::End => {
                    self.session = None;
                    return Err(seen);
                }
                Received::Nothing => return Err(seen),
            }
        }
    }

    /// Waits for a pong with the state of the list.
    pub(super) async fn expect_state(&mut self) -> Result<String, String> {
        let (revision, Digest(digest)) = (self.list.revision, self.list.digest());
        let end = Instant::now() + self.patience.within;
        let mut last = None;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let (_, pong) = self.expect(&[Kind::Pong], left).await.map_err(|seen| {
                let due = format!("state {revision} with digest {digest} was due");
                last.take().map_or_else(|| format!("{due}; {seen}"), |last: String| format!("{due}: {last}"))
            })?;
            if state_of(&pong) == Some((revision, Digest(digest))) {
                return Ok(shown(&pong.text));
            }
            last = Some(shown(&pong.text));
        }
    }

    /// Pings the node, which must still have the state of the list, and must not ask for it.
    pub(super) async fn expect_same_state(&mut self) -> Result<String, String> {
        self.send(&self.list.ping(self.list.digest())).await?;
        let (kind, packet) = self.expect(&[Kind::Pong, Kind::ListRequest], self.patience.within).await?;
        let has_state = state_of(&packet) == Some((self.list.revision, self.list.digest()));
        if kind == Kind::Pong && has_state { Ok(shown(&packet.text)) } else { Err(shown(&packet.text)) }
    }

    /// Waits for a request for the list, and gives its key. The node has the state `before` and no
    /// other meanwhile.
    pub(super) async fn expect_request(&mut self, before: &PlayedList) -> Result<String, String> {
        self.send(&before.ping(before.digest())).await?;
        let (mut key, mut has_ponged) = (None, false);
        while key.is_none() || !has_ponged {
            let due = [Kind::ListRequest, Kind::Pong];
            let due = if key.is_some() { &due[1..] } else { &due[..if has_ponged { 1 } else { 2 }] };
            let (kind, packet) = self.expect(due, self.patience.within).await?;
            if kind == Kind::ListRequest {
                key = Some(packet.get("key").ok_or_else(|| format!("no key: {}", shown(&packet.text)))?.to_owned());
                continue;
            }
            has_ponged = true;
            if state_of(&packet) != Some((before.revision, before.digest())) {
                return Err(format!("it has changed what it knows: {}", shown(&packet.text)));
            }
        }
        key.ok_or_else(|| "no request".to_owned())
    }

    /// Checks that the node stays silent, but for pongs and reports, for this time.
    pub(super) async fn expect_silence(&mut self, time: Duration) -> Result<(), String> {
        match self.expect(&[Kind::ListRequest, Kind::Copy], time).await {
            Ok((_, packet)) => Err(format!("it should wait: {}", shown(&packet.text))),
            Err(_) if self.session.is_none() => Err("it should wait: the connection was closed".to_owned()),
            Err(seen) if seen.ends_with("silence") => Ok(()),
            Err(seen) => Err(seen),
        }
    }
}

fn read_registration(packet: &NodeResponse, host: IpAddr) -> Option<Registered> {
    let text = packet.get("params")?.to_owned();
    let params = serde_json::from_str(&text).ok()?;
    Some(Registered { text, params, options: packet.meta().unwrap_or_default(), host })
}

/// The state that the `$` of a packet, or its member `have`, names.
pub(super) fn state_in(meta: &Map<String, Value>) -> Option<(Revision, Digest)> {
    let number = |name: &str| meta.get(name)?.as_u64();
    let revision = Revision { epoch: number("epoch")?, rev: number("rev")? };
    Some((revision, Digest(number("digest")?.try_into().ok()?)))
}

fn state_of(packet: &NodeResponse) -> Option<(Revision, Digest)> {
    state_in(&packet.meta()?)
}
