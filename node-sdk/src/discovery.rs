//! The connection to the Distributor: registers, takes in lists, and comes back when it is lost.

use std::time::Duration;

use bytes::BytesMut;
use daemon::{FrameReader, Throttle, at, tune};
use protocol::{ListError, NodeList, Packet, REGISTRY_URI, Route, Version, write_registration};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::peers::Peers;

/// Period in which a node that is not connected tries to be, as old nodes do.
pub const RECONNECT_PERIOD: Duration = Duration::from_secs(3);
/// A Distributor in the same network answers a connect in well under this, unless it is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Most bytes of a list: ten thousand nodes of 256 bytes fit three times.
const MAX_LIST_BYTES: usize = 8 << 20;
/// Between attempts that fail for the same reason, how often the log says so.
const LOG_PERIOD: Duration = Duration::from_secs(30);

/// What a process tells the Distributor about itself.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its name, such as `goods`; `gate` for gateways.
    pub name: String,
    /// Where it listens.
    pub port: u16,
    /// What it offers.
    pub routes: Vec<Route>,
}

impl Peers {
    /// Registers `identity` at the Distributor at `address` (`host:port`), and keeps registered and informed until
    /// `leave` is cancelled. Returns at once; there are no peers before the first list.
    ///
    /// While the Distributor cannot be reached, what is known stays, and an attempt to connect is made every
    /// [`RECONNECT_PERIOD`], a tenth more or less; the first after a loss comes at a random moment of that period.
    pub fn join(identity: Identity, address: String, leave: CancellationToken) -> Self {
        let peers = Self::new();
        let discovery =
            Discovery { identity, address, id: format!("{:032x}", fastrand::u128(..)), peers: peers.clone() };
        tokio::spawn(async move {
            tokio::select! {
                () = leave.cancelled() => {}
                () = discovery.run() => {}
            }
        });
        peers
    }
}

struct Discovery {
    identity: Identity,
    address: String,
    id: String,
    peers: Peers,
}

impl Discovery {
    /// One attempt at a time, for ever.
    async fn run(&self) {
        let mut failures = Throttle::new(LOG_PERIOD);
        let mut losses = Throttle::default();
        // The log's last word is that there is no connection.
        let mut told_lost = true;
        loop {
            let wait = match timeout(CONNECT_TIMEOUT, TcpStream::connect(&self.address)).await {
                Ok(Ok(stream)) => {
                    failures = Throttle::new(LOG_PERIOD);
                    if told_lost {
                        info!(distributor = %self.address, name = %self.identity.name, "connected");
                    }
                    let reason = self.follow(&stream).await;
                    self.peers.disconnected();
                    let shown = losses.pass(Instant::now().into_std());
                    told_lost = shown.is_some();
                    if let Some(held_back) = shown {
                        warn!(distributor = %self.address, reason, held_back, "connection to the Distributor lost; peers known stay in use");
                    }
                    // Everybody lost it at this moment: come back spread over one period.
                    RECONNECT_PERIOD.mul_f64(fastrand::f64())
                }
                failed => {
                    let error = match failed {
                        Ok(Err(error)) => error.to_string(),
                        _ => format!("no answer within {CONNECT_TIMEOUT:?}"),
                    };
                    if let Some(held_back) = failures.pass(Instant::now().into_std()) {
                        told_lost = true;
                        warn!(distributor = %self.address, error, held_back, "cannot reach the Distributor; trying every 3 s");
                    }
                    RECONNECT_PERIOD.mul_f64(0.9 + 0.2 * fastrand::f64())
                }
            };
            sleep(wait).await;
        }
    }

    /// Registers and takes in lists until the connection ends; says why it did.
    async fn follow(&self, stream: &TcpStream) -> &'static str {
        tune(stream);
        self.peers.reconnected();
        let mut registration = BytesMut::new();
        let Identity { name, port, routes } = &self.identity;
        write_registration(&mut registration, name, *port, routes, &self.id);
        // A fresh socket takes this much at once, and old Distributors die of a packet in two pieces.
        loop {
            match stream.try_write(&registration) {
                Ok(bytes) => drop(registration.split_to(bytes)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => drop(stream.writable().await),
                Err(_broken) => return "broken",
            }
            if registration.is_empty() {
                break;
            }
        }
        let mut reader = FrameReader::new(MAX_LIST_BYTES);
        let mut bad = Throttle::default();
        loop {
            let expiry = self.peers.expire();
            tokio::select! {
                readable = stream.readable() => match readable.and_then(|()| reader.fill(stream)) {
                    Ok(true) => {}
                    Ok(false) => return "closed by the Distributor",
                    Err(_broken) => return "broken",
                },
                () = at(expiry) => continue,
            }
            // Of several lists only the newest matters.
            let mut newest = None;
            loop {
                match reader.next_frame() {
                    Ok(Some(frame)) if protocol::is_blank(&frame) => {}
                    Ok(Some(frame)) => match self.read(&frame) {
                        Ok(list) => newest = list.or(newest),
                        Err(error) => {
                            if let Some(held_back) = bad.pass(Instant::now().into_std()) {
                                warn!(error, held_back, "ignored a packet from the Distributor; the last list stays");
                            }
                        }
                    },
                    Ok(None) => break,
                    Err(_too_large) => return "a list larger than 8 MiB",
                }
            }
            if let Some(list) = newest {
                debug!(nodes = list.nodes.len(), skipped = list.skipped, "list");
                self.peers.apply(list);
            }
        }
    }

    /// The list in a packet, if it is one.
    fn read(&self, frame: &[u8]) -> Result<Option<NodeList>, String> {
        let packet = Packet::parse(frame).map_err(|error| error.to_string())?;
        if (packet.uri(), packet.method()) != (REGISTRY_URI, "GET") {
            return Ok(None);
        }
        if packet.version() == Version::V2 && protocol::Answer::from_packet(&packet).status >= 400 {
            let answer = protocol::Answer::from_packet(&packet);
            let (reason, message) = (answer.reason.unwrap_or_default(), answer.message.unwrap_or_default());
            return Err(format!("the Distributor refused a packet of {}: {reason}: {message}", self.identity.name));
        }
        let Some(params) = packet.params else { return Err("a list without params".to_owned()) };
        NodeList::parse(params).map(Some).map_err(|error: ListError| error.to_string())
    }
}
