//! Request and reply through nats-server: a service and a client, each with one connection to it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::daemon_process::pin_to;

/// Connects, subscribes, and waits until the server has accepted that.
async fn connect(address: SocketAddr, subscribe: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(format!("CONNECT {{\"verbose\":false}}\r\n{subscribe}PING\r\n").as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while memmem::find(&seen, b"PONG\r\n").is_none() {
        assert!(stream.read_buf(&mut seen).await.unwrap() > 0);
    }
    stream
}

/// The next message in the buffer: its length, the subject to reply to, or else its own, and its
/// text.
fn next(buffer: &[u8]) -> Option<(usize, &str, &[u8])> {
    // The server pings once at the beginning, and then every few minutes. A measurement is over
    // before it minds that there is no answer.
    const PING: &[u8] = b"PING\r\n";
    if let Some(rest) = buffer.strip_prefix(PING) {
        return next(rest).map(|(whole, address, body)| (whole + PING.len(), address, body));
    }
    let end = memmem::find(buffer, b"\r\n")?;
    let line = std::str::from_utf8(&buffer[..end]).unwrap();
    let mut words = line.split(' ');
    assert_eq!(words.next(), Some("MSG"), "{line}");
    let words: Vec<_> = words.collect();
    let bytes: usize = words.last()?.parse().unwrap();
    let whole = end + 2 + bytes + 2;
    let address = if words.len() == 4 { words[2] } else { words[0] };
    (buffer.len() >= whole).then(|| (whole, address, &buffer[end + 2..end + 2 + bytes]))
}

/// Runs the service: it reads each message as JSON, and writes it again as the reply.
pub(crate) async fn serve<T: serde::Serialize + serde::de::DeserializeOwned>(address: SocketAddr) {
    pin_to(None, 0);
    let mut stream = connect(address, "SUB echo 1\r\n").await;
    println!("{address}");
    let (mut buffer, mut out) = (Vec::with_capacity(1 << 16), Vec::new());
    while stream.read_buf(&mut buffer).await.unwrap_or(0) > 0 {
        let mut taken = 0;
        while let Some((whole, reply, body)) = next(&buffer[taken..]) {
            let answer = serde_json::to_vec(&serde_json::from_slice::<T>(body).unwrap()).unwrap();
            out.extend_from_slice(format!("PUB {reply} {}\r\n", answer.len()).as_bytes());
            out.extend_from_slice(&answer);
            out.extend_from_slice(b"\r\n");
            taken += whole;
        }
        buffer.drain(..taken);
        stream.write_all(&out).await.unwrap();
        out.clear();
    }
}

/// Keeps `in_flight` requests in flight for this time. Returns how long each took.
pub(crate) async fn call<T>(address: SocketAddr, in_flight: usize, value: &T, during: Duration) -> Vec<Duration>
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let mut stream = connect(address, "SUB in.* 1\r\n").await;
    let request = |out: &mut Vec<u8>, slot: usize| {
        let body = serde_json::to_vec(value).unwrap();
        out.extend_from_slice(format!("PUB echo in.{slot} {}\r\n", body.len()).as_bytes());
        out.extend_from_slice(&body);
        out.extend_from_slice(b"\r\n");
    };
    let (mut buffer, mut out, mut times) = (Vec::with_capacity(1 << 16), Vec::new(), Vec::new());
    let mut started = vec![Instant::now(); in_flight];
    let end = Instant::now() + during;
    (0..in_flight).for_each(|slot| request(&mut out, slot));
    let mut waiting = in_flight;
    while waiting > 0 {
        stream.write_all(&out).await.unwrap();
        out.clear();
        assert!(stream.read_buf(&mut buffer).await.unwrap() > 0);
        let (mut taken, now) = (0, Instant::now());
        while let Some((whole, subject, body)) = next(&buffer[taken..]) {
            assert_eq!(serde_json::from_slice::<T>(body).unwrap(), *value);
            let slot: usize = subject.strip_prefix("in.").unwrap().parse().unwrap();
            taken += whole;
            times.push(now - started[slot]);
            if now < end {
                started[slot] = now;
                request(&mut out, slot);
            } else {
                waiting -= 1;
            }
        }
        buffer.drain(..taken);
    }
    times
}
