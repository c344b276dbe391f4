//! Clients that attack a gateway: what each of them sends, and how little of the response it reads.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures::future::join_all;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::daemon_process::be_nicest;
use crate::http::edge_server::{EdgeServer, TrustAnything};

/// Attackers that send or read slowly: half as many as the gateway has connections.
const SLOW_CLIENTS: usize = 5000;
/// Attackers that send without a pause. More of them would measure the network, not HTTP.
const FLOODING_CLIENTS: usize = 50;
/// The time between two arrivals: if all attackers came at once, that would be another attack.
const ARRIVAL_INTERVAL: Duration = Duration::from_micros(400);
/// The time between two arrivals of attackers that speak TLS: the core that they share with the
/// good clients makes few more handshakes.
const TLS_ARRIVAL_INTERVAL: Duration = Duration::from_millis(2);
/// Bytes that an attacker uploads at a time: 1.3 kB a second.
const UPLOAD_PART: usize = 2600;
/// Bytes that an attacker reads of a download at a time: 3 kB a second.
const DOWNLOAD_PART: usize = 6000;

/// One kind of attack.
#[derive(Clone)]
pub(crate) struct ClientAttack {
    pub(crate) name: &'static str,
    attackers: usize,
    layer: Layer,
    /// The bytes that each attacker sends when it has connected.
    first: Vec<u8>,
    /// The bytes that it sends after that, again and again.
    again: Vec<u8>,
    /// The time between two of these.
    every: Duration,
    reads: ReadRate,
}

/// What the bytes of an attacker are sent over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layer {
    Tcp,
    /// TLS, after a whole handshake.
    Tls,
    /// The TCP port that speaks TLS.
    TcpForTls,
}

/// How much an attacker reads of the response.
#[derive(Clone, Copy)]
enum ReadRate {
    Nothing,
    /// Reads this number of bytes in each interval.
    Slowly(usize),
    /// Everything, so that it notices when it is cut off, and comes again.
    All,
}

/// The addresses that attackers come from.
#[derive(Clone, Copy)]
pub(crate) enum Source {
    /// 127.0.0.1.
    OneAddress,
    /// 127.0.0.2 to 127.0.0.254.
    ManyAddresses,
}

impl Source {
    fn source(self, number: usize) -> SocketAddr {
        let last = match self {
            Self::OneAddress => 1,
            Self::ManyAddresses => 2 + u8::try_from(number % 253).unwrap(),
        };
        (IpAddr::from(Ipv4Addr::new(127, 0, 0, last)), 0).into()
    }
}

/// All attacks.
pub(crate) fn attacks(trust: &TrustAnything) -> [ClientAttack; 12] {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let get = [0x82, 0x86, 0x84, 0x41, 1, b'g'];
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    };
    let rapid: Vec<u8> = (0..200u32)
        .flat_map(|at| [frame(1, 5, at * 2 + 1, &get), frame(3, 0, at * 2 + 1, &[0, 0, 0, 8])].concat())
        .collect();
    let continuation: Vec<u8> = (0..50).flat_map(|_| frame(9, 0, 1, &[0, 1, b'a', 1, b'b'])).collect();
    let slow = |name, first: &[u8], again: &[u8], reads| ClientAttack {
        name,
        attackers: SLOW_CLIENTS,
        layer: Layer::Tcp,
        first: first.to_vec(),
        again: again.to_vec(),
        every: Duration::from_secs(2),
        reads,
    };
    let over = |layer, attack| ClientAttack { layer, ..attack };
    let flood = |name, first: Vec<u8>, again| ClientAttack {
        name,
        attackers: FLOODING_CLIENTS,
        layer: Layer::Tcp,
        first,
        again,
        every: Duration::from_millis(500),
        reads: ReadRate::Nothing,
    };
    let heads = b"GET / HTTP/1.1\r\nHost: g\r\n";
    let big = b"GET /big HTTP/1.1\r\nHost: g\r\n\r\n";
    let post = b"POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 100000\r\n\r\n";
    let upload = b"POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 100000000\r\n\r\n";
    let web_socket = b"GET /ws HTTP/1.1\r\nHost: g\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    [
        slow("one byte", b"G", b"", ReadRate::All),
        slow("slow heads", heads, b"X: y\r\n", ReadRate::All),
        slow("slow bodies", post, b"x", ReadRate::All),
        slow("uploads", upload, &[b'x'; UPLOAD_PART], ReadRate::All),
        slow("downloads", big, b"", ReadRate::Slowly(DOWNLOAD_PART)),
        slow("no reading", big, b"", ReadRate::Nothing),
        slow("idle WebSockets", web_socket, b"", ReadRate::All),
        over(Layer::Tls, slow("TLS slow heads", heads, b"X: y\r\n", ReadRate::All)),
        over(Layer::Tls, slow("TLS downloads", big, b"", ReadRate::Slowly(DOWNLOAD_PART))),
        over(Layer::TcpForTls, slow("TLS half handshakes", &trust.client_hello(), b"", ReadRate::All)),
        flood("rapid resets", preface.to_vec(), rapid),
        flood("headers without end", [&preface[..], &frame(1, 1, 1, &get)].concat(), continuation),
    ]
}

impl ClientAttack {
    pub(crate) fn is_flood(&self) -> bool {
        self.attackers == FLOODING_CLIENTS
    }

    pub(crate) fn needs_tls(&self) -> bool {
        self.layer != Layer::Tcp
    }

    /// How long it takes until all attackers have come.
    pub(crate) fn comes_within(&self) -> Duration {
        self.arrival_interval() * u32::try_from(self.attackers).unwrap()
    }

    fn arrival_interval(&self) -> Duration {
        if self.needs_tls() { TLS_ARRIVAL_INTERVAL } else { ARRIVAL_INTERVAL }
    }

    /// Starts the attack; it ends when the guard is dropped. Attackers connect one after the other,
    /// and again when they are cut off. They run in a thread of the lowest priority, because they
    /// share a core with the good clients: otherwise they would keep these from sending, and that
    /// would count against the server.
    pub(crate) fn begin(&self, front: &EdgeServer, trust: &TrustAnything, from: Source) -> DropGuard {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let at = if self.needs_tls() { front.secure } else { front.process.address };
        let (attack, interval, tls) = (self.clone(), self.arrival_interval(), trust.client());
        std::thread::spawn(move || {
            be_nicest();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let come = async |number: usize| {
                sleep(interval * u32::try_from(number).unwrap()).await;
                loop {
                    // Buffers are small, because the attackers' memory is on this machine, too.
                    let socket = TcpSocket::new_v4().unwrap();
                    socket.set_recv_buffer_size(4096).unwrap();
                    socket.bind(from.source(number)).unwrap();
                    if let Ok(stream) = socket.connect(at).await {
                        match attack.layer {
                            Layer::Tcp | Layer::TcpForTls => attack.run_over(stream).await,
                            Layer::Tls => {
                                if let Ok(stream) = tls.over(stream).await {
                                    attack.run_over(stream).await;
                                }
                            }
                        }
                    }
                    sleep(attack.every).await;
                }
            };
            runtime.block_on(stopped.run_until_cancelled(join_all((0..attack.attackers).map(come))));
        });
        stop.drop_guard()
    }

    /// Runs one attacker over its connection, until that ends.
    async fn run_over(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut open = write(&mut stream, &self.first).await;
        while open {
            open = self.reads.wait(&mut stream, self.every).await && write(&mut stream, &self.again).await;
        }
    }
}

/// Returns false if the connection has ended.
async fn write(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> bool {
    // A TLS stream may hold bytes back otherwise.
    stream.write_all(bytes).await.is_ok() && stream.flush().await.is_ok()
}

impl ReadRate {
    /// Waits for `time`, and reads as much as this attacker reads. Returns false if the connection
    /// has ended.
    async fn wait(self, stream: &mut (impl AsyncRead + Unpin), time: Duration) -> bool {
        let end = Instant::now() + time;
        let mut left = match self {
            Self::Nothing => 0,
            Self::Slowly(bytes) => bytes,
            Self::All => usize::MAX,
        };
        let mut scrap = [0; 2048];
        while left > 0 {
            let part = left.min(scrap.len());
            match timeout_at(end, stream.read(&mut scrap[..part])).await {
                Ok(Ok(bytes @ 1..)) => left -= bytes,
                Ok(_) => return false,
                Err(_elapsed) => return true,
            }
        }
        tokio::time::sleep_until(end).await;
        true
    }
}
