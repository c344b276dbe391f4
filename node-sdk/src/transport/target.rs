//! The node that a connection leads to: where it is, and how it is known to be the one.

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use net::{FrameReader, Network, Socket, set_socket_options};
use protocol::{
    ANY_INSTANCE, HELLO_URI, Hello, HostName, HostPort, Packet, Unreachable, Version, is_blank, write_hello,
};

use crate::error::lost::LostCalls;
use crate::error::malformed::MalformedLog;
use crate::transport::blocked::BlockedAddresses;

/// Maximum bytes that a node may send before it has said who it is: a hello has far fewer.
const MAX_HELLO_BYTES: usize = 1024;

/// The node that a connection leads to.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Its address in lists.
    pub(crate) address: SocketAddr,
    /// The name of the node, for the log.
    pub(crate) name: Box<str>,
    /// Where it says that it is, if it does. A name is looked up at each connect.
    pub(crate) advertised: Option<HostPort>,
    pub(crate) version: Version,
    /// How many unread bytes it may have, if it is of version 1.
    pub(crate) read_window: usize,
    /// The instance that listens there; nodes of version 1 do not say.
    pub(crate) instance: Option<String>,
    /// Whether several instances are listed there, and any of them may answer.
    pub(crate) is_shared: bool,
    /// The rendezvous score of the target for this node, to choose a subset of many nodes.
    pub(crate) rendezvous_score: u64,
}

/// How connections are made: the settings that all connections of one process share.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    pub(crate) network: Network,
    /// The instance that calls, and its name.
    pub(crate) instance: Arc<str>,
    pub(crate) name: Arc<str>,
    /// Addresses that are never called.
    pub(crate) blocked: Arc<BlockedAddresses>,
    /// Calls without a response that this process has lost.
    pub(crate) lost: Arc<LostCalls>,
    /// Answers that could not be understood.
    pub(crate) malformed: Arc<MalformedLog>,
}

impl Target {
    /// Whether a connection to this node is one to `other`.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let kind_of = |target: &Self| {
            let (version, window, is_shared) = (target.version, target.read_window, target.is_shared);
            (version, window, is_shared, target.instance.clone(), target.advertised.clone())
        };
        self.address == other.address && kind_of(self) == kind_of(other)
    }

    /// Whether no call is sent before the node has said that it is the one. The Distributor has not
    /// seen an advertised address, so anything may listen there.
    pub(crate) fn has_to_answer(&self) -> bool {
        self.version == Version::V2 && self.advertised.is_some()
    }

    /// Writes the first packet of a connection: who calls, and whom.
    pub(crate) fn write_hello(&self, out: &mut BytesMut, connector: &Connector) {
        let [from, name] = [&connector.instance, &connector.name].map(|text| Some(Cow::Borrowed(&**text)));
        // A node answers only if it is asked for an instance, and its answer shows that it reads.
        let to = Some(Cow::Borrowed(self.expected().unwrap_or(ANY_INSTANCE)));
        write_hello(out, &Hello { from, name, to });
    }

    /// The only instance that may answer, if there is just one.
    fn expected(&self) -> Option<&str> {
        self.instance.as_deref().filter(|_| !self.is_shared)
    }

    /// Whether the answer to a hello comes from this node.
    pub(crate) fn is_meant(&self, answer: &Packet<'_>) -> bool {
        let from = Hello::from_packet(answer).from;
        self.expected().is_none_or(|expected| from.is_some_and(|from| from == expected))
    }
}

impl Connector {
    /// Connects to a node. If it has to answer first, it has. Cancel safe.
    pub(crate) async fn connect(&self, target: &Target) -> Result<Socket, Unreachable> {
        let stream = self.open(target).await?;
        set_socket_options(&stream);
        if target.has_to_answer() {
            self.await_hello(target, &stream).await?;
        }
        Ok(stream)
    }

    async fn open(&self, target: &Target) -> Result<Socket, Unreachable> {
        let Some(advertised @ HostPort { host: HostName::Name(_), .. }) = &target.advertised else {
            return self.network.connect_to(target.address).await.map_err(|error| unreachable_because(&error));
        };
        let is_loopback = |address: SocketAddr| address.ip().is_loopback();
        // A name must not lead to this machine, unless the list does.
        let skips = |address: SocketAddr| {
            self.blocked.reason(address).is_some() || is_loopback(address) && !is_loopback(target.address)
        };
        match self.network.connect(advertised, skips).await {
            Ok(stream) => Ok(stream),
            // The address that the Distributor has found may be right where our look-up finds none.
            Err(error) => self.network.connect_to(target.address).await.map_err(|_| unreachable_because(&error)),
        }
    }

    /// Says whom the connection is for, and waits until the node has said that it is the one.
    async fn await_hello(&self, target: &Target, stream: &Socket) -> Result<(), Unreachable> {
        let mut hello = BytesMut::new();
        target.write_hello(&mut hello, self);
        while !hello.is_empty() {
            match stream.try_write(&hello) {
                Ok(bytes) => hello.advance(bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    stream.writable().await.map_err(|_| Unreachable::NoNode)?;
                }
                Err(_broken) => return Err(Unreachable::NoNode),
            }
        }
        let mut reader = FrameReader::new(MAX_HELLO_BYTES);
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) if is_blank(&frame) => continue,
                Ok(Some(frame)) => {
                    let Ok(answer) = Packet::parse(&frame) else { return Err(Unreachable::NoNode) };
                    return match answer.uri() == HELLO_URI {
                        true if target.is_meant(&answer) => Ok(()),
                        true => Err(Unreachable::WrongInstance),
                        false => Err(Unreachable::NoNode),
                    };
                }
                Ok(None) => {}
                Err(_too_large) => return Err(Unreachable::NoNode),
            }
            stream.readable().await.map_err(|_| Unreachable::NoNode)?;
            if !reader.fill(stream).unwrap_or(false) {
                return Err(Unreachable::NoNode);
            }
        }
    }
}

/// Why an address is unreachable, by the error of a connect.
pub fn unreachable_because(error: &io::Error) -> Unreachable {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::ConnectionRefused => Unreachable::Refused,
        Kind::TimedOut => Unreachable::Timeout,
        Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown | Kind::AddrNotAvailable => {
            Unreachable::HostUnreachable
        }
        Kind::NotFound => Unreachable::UnknownName,
        Kind::PermissionDenied => Unreachable::Forbidden,
        _ => Unreachable::Other,
    }
}
