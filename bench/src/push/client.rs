//! A client of a WebSocket that only reads, with as little of the protocol as that takes: there are
//! tens of thousands on one core.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Instant;

use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;

/// Clients of one address: a gateway gives one address half of its free places at most.
const CLIENTS_OF_ADDRESS: usize = 500;

/// The messages that have arrived at all clients.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    count: Cell<usize>,
    last: Cell<Option<Instant>>,
    arrived: Notify,
}

impl Arrivals {
    pub(super) fn reset(&self) {
        self.count.set(0);
    }

    fn record(&self) {
        self.count.set(self.count.get() + 1);
        self.last.set(Some(Instant::now()));
        self.arrived.notify_waiters();
    }

    /// Waits for this many, and returns when the last came.
    pub(super) async fn wait_for(&self, count: usize) -> Instant {
        loop {
            let arrived = self.arrived.notified();
            if self.count.get() >= count {
                return self.last.get().unwrap();
            }
            arrived.await;
        }
    }
}

/// Opens a WebSocket, which reads until the run ends. Every other pair of clients joins the group.
/// Returns the session.
pub(super) async fn connect(port: u16, at: usize, arrivals: &Rc<Arrivals>) -> String {
    let address =
        Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 0, 1, 1)) + u32::try_from(at / CLIENTS_OF_ADDRESS).unwrap());
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((address, 0).into()).unwrap();
    let mut stream = socket.connect(SocketAddr::from(([127, 0, 0, 1], port))).await.unwrap();
    let joins = (at / 2).is_multiple_of(2);
    let head = format!(
        "GET /live?joins={joins} HTTP/1.1\r\nHost: drill\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut read = Vec::with_capacity(512);
    // The session is the first message: a short text frame.
    let session = loop {
        if let Some(end) = memmem::find(&read, b"\r\n\r\n")
            && let Some(text) = text_of(&read[end + 4..])
        {
            assert!(read.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&read));
            break text.trim_matches('"').to_owned();
        }
        assert!(stream.read_buf(&mut read).await.unwrap() > 0, "{}", String::from_utf8_lossy(&read));
    };
    tokio::task::spawn_local(count_messages(stream, Rc::clone(arrivals)));
    session
}

/// Counts messages, which are short, and answers pings.
async fn count_messages(mut stream: TcpStream, arrivals: Rc<Arrivals>) {
    let (mut buffer, mut filled) = ([0; 256], 0);
    while let Ok(bytes @ 1..) = stream.read(&mut buffer[filled..]).await {
        filled += bytes;
        let mut at = 0;
        while let [first, length, ..] = buffer[at..filled]
            && filled - at >= 2 + usize::from(length)
        {
            match first & 0xf {
                0x1 => arrivals.record(),
                // An answer to a ping: masked with zeros, and as empty as the ping.
                0x9 => stream.write_all(&[0x8a, 0x80, 0, 0, 0, 0]).await.unwrap_or_default(),
                _ => {}
            }
            at += 2 + usize::from(length);
        }
        buffer.copy_within(at..filled, 0);
        filled -= at;
    }
}

/// The payload of a whole short text frame.
fn text_of(bytes: &[u8]) -> Option<&str> {
    let [0x81, length @ 0..126, rest @ ..] = bytes else { return None };
    std::str::from_utf8(rest.get(..usize::from(*length))?).ok()
}

/// The status of a plain request for the route.
pub(super) async fn status(port: u16) -> u16 {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else { return 0 };
    let request = b"GET /live?joins=false HTTP/1.1\r\nHost: drill\r\nConnection: close\r\n\r\n";
    let mut read = Vec::new();
    if stream.write_all(request).await.is_err() || stream.read_to_end(&mut read).await.is_err() {
        return 0;
    }
    String::from_utf8_lossy(&read).split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}
