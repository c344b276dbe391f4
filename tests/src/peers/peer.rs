//! Raw bytes on a socket, as a peer of any version, or of none, can send them.

use std::net::SocketAddr;
use std::time::Duration;

use protocol::{ListUpdate, PING_URI, Packet, Replica, Revision, UnpackedBlocks, UpdateOutcome};
use serde_json::{Value, json};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::{PATIENCE, pick_port};

/// Between two questions for the list, when it is waited for.
const QUESTION_INTERVAL: Duration = Duration::from_millis(5);

/// One end of a connection that carries packets.
#[derive(Debug)]
pub struct Peer {
    stream: TcpStream,
    decoder: protocol::FrameDecoder,
    /// What it has been told of the registry.
    replica: Replica,
}

impl Peer {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap())
    }

    /// Uses an open connection.
    pub fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self { stream, decoder: protocol::FrameDecoder::new(64 << 20), replica: Replica::default() }
    }

    /// Connects from a given local port, which may have been used a moment ago.
    pub async fn connect_from(port: u16, address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::new("127.0.0.1".parse().unwrap(), port).into()).unwrap();
        tokio::task::spawn_blocking(move || {
            socket.connect(&address.into()).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        })
        .await
        .map(|socket| Self::over(TcpStream::from_std(socket.into()).unwrap()))
        .unwrap()
    }

    /// Connects from a local port that the system does not assign to other sockets.
    pub async fn connect_from_own_port(address: SocketAddr) -> Self {
        Self::connect_from(pick_port(), address).await
    }

    /// Connects with so small a receive buffer that not reading shows at the other end.
    pub async fn connect_narrow(address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(&address.into()).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self::over(TcpStream::from_std(socket.into()).unwrap())
    }

    /// This end's port.
    pub fn port(&self) -> u16 {
        self.stream.local_addr().unwrap().port()
    }

    /// Whether the system has received a reset; checks once, without reading.
    pub fn is_reset(&self) -> bool {
        let error = SockRef::from(&self.stream).take_error().unwrap();
        error.is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
    }

    /// Writes bytes; a connection that the other end has cut is not a failure.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = timeout(PATIENCE, self.stream.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Ends this side of the connection; the other is still read.
    pub async fn shutdown(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Writes one packet with its delimiter, as a version 1 peer would.
    pub async fn send_packet(&mut self, packet: &Value) {
        self.send(format!("{packet}¶")).await;
    }

    /// Registers as a version 1 node without urls.
    pub async fn register(&mut self, name: &str, port: u16) {
        self.register_with(json!({ "port": port, "name": name, "urls": [] })).await;
    }

    /// Registers with any params.
    pub async fn register_with(&mut self, params: Value) {
        self.send_packet(&json!({ "uri": "/distributes", "method": "POST", "key": 0, "params": params })).await;
    }

    /// The next packet, or `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Value> {
        timeout(PATIENCE, async {
            loop {
                if let Some(frame) = self.decoder.next_frame().unwrap() {
                    return Some(serde_json::from_slice(&frame).expect("every packet is JSON"));
                }
                match self.stream.read_buf(self.decoder.buffer()).await {
                    Ok(0) | Err(_) => return None,
                    Ok(_) => {}
                }
            }
        })
        .await
        .expect("a packet or the end of the stream")
    }

    /// The names that are listed after the next list or change. Pings are answered on the way.
    pub async fn next_list(&mut self) -> Vec<String> {
        while self.takes_ping().await {}
        self.names()
    }

    /// Answers the next ping. Lists and changes on the way are taken in.
    pub async fn next_ping(&mut self) {
        while !self.takes_ping().await {}
    }

    /// Takes in the next packet: a ping, which is answered, or a list or change. Returns whether it
    /// was a ping.
    async fn takes_ping(&mut self) -> bool {
        let bytes = self.next_bytes().await;
        let packet = Packet::parse(&bytes[..bytes.len() - 2]).expect("every packet is one");
        if packet.uri() == PING_URI {
            self.pong().await;
            return true;
        }
        assert_eq!(packet.uri(), "/distributes");
        let mut unpacked = UnpackedBlocks::default();
        let update = ListUpdate::parse(&packet, &mut unpacked).unwrap();
        let outcome = self.replica.apply(tokio::time::Instant::now().into_std(), &update);
        assert!(matches!(outcome, UpdateOutcome::Changed | UpdateOutcome::Same), "{outcome:?}: {packet:?}");
        false
    }

    /// The names that are listed, as far as it has been told.
    pub fn names(&self) -> Vec<String> {
        let name = |(_, entry): (u64, &str)| {
            let entry: Value = serde_json::from_str(entry).unwrap();
            entry["name"].as_str().unwrap_or_default().to_owned()
        };
        self.replica.entries().map(name).collect()
    }

    /// What it has been told of the registry.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Gives a sign of life, and says what it knows.
    pub async fn pong(&mut self) {
        let mut out = bytes::BytesMut::new();
        protocol::write_pong(&mut out, self.replica.pong(true));
        self.send(out).await;
    }

    /// Registers as a version 2 node: `name`, `port`, instance, and the list it has.
    pub async fn register_v2(&mut self, name: &str, port: u16, instance: &str, resume: Option<Revision>) {
        let params = json!({ "port": port, "name": name, "urls": [], "$": { "v": 2, "id": instance } });
        let options = resume.map_or_else(|| json!({}), |resume| json!({ "have": resume }));
        self.send_packet(&json!({ "uri": "/distributes", "method": "POST", "key": 0, "params": params, "$": options }))
            .await;
    }

    /// Reads lists up to one that has this name.
    pub async fn list_with(&mut self, name: &str) -> Vec<String> {
        self.list_where(name, |names| names.iter().any(|other| other == name)).await
    }

    /// Reads lists up to one that does not have this name.
    pub async fn list_without(&mut self, name: &str) -> Vec<String> {
        self.list_where(name, |names| names.iter().all(|other| other != name)).await
    }

    /// Reads lists up to one that is right. Pings on the way do not make it wait longer.
    async fn list_where(&mut self, about: &str, is_right: impl Fn(&[String]) -> bool) -> Vec<String> {
        let seen = async {
            loop {
                let names = self.next_list().await;
                if is_right(&names) {
                    return names;
                }
            }
        };
        match timeout(PATIENCE, seen).await {
            Ok(names) => names,
            Err(_) => panic!(
                "did not happen within {PATIENCE:?}: a list with {about}, or without; there is {:?}",
                self.names()
            ),
        }
    }

    /// Asks for the list under a key and reads up to the answer. All packets sent before have been
    /// handled then.
    pub async fn ask(&mut self, key: u64) -> Vec<Value> {
        self.send_packet(&json!({ "uri": "/distributes", "method": "GET", "key": key })).await;
        loop {
            let packet = self.next().await.expect("an answer");
            if packet["key"] == key {
                return packet["params"].as_array().unwrap().clone();
            }
        }
    }

    /// Asks for the list until its names are right, and panics with `what` and the last names after
    /// [`PATIENCE`].
    pub async fn ask_until(&mut self, what: &str, is_right: impl Fn(&[String]) -> bool) {
        let mut names = Vec::new();
        let asks = async {
            loop {
                let entries = self.ask(1).await;
                names = entries.iter().map(|entry| entry["name"].as_str().unwrap_or_default().to_owned()).collect();
                if is_right(&names) {
                    return;
                }
                sleep(QUESTION_INTERVAL).await;
            }
        };
        let happens = timeout(PATIENCE, asks).await.is_ok();
        assert!(happens, "did not happen within {PATIENCE:?}: {what}; there are {}: {names:?}", names.len());
    }

    /// Reads to the end of the stream and gives the last packet, such as the reason for being cut.
    pub async fn last_packet(&mut self) -> Option<Value> {
        let mut last = None;
        while let Some(packet) = self.next().await {
            last = Some(packet);
        }
        last
    }

    /// The stable word in the last packet before the end.
    pub async fn rejection_reason(&mut self) -> String {
        let last = self.last_packet().await.expect("a reason");
        assert_eq!(last["params"], json!([]), "the one form that version 1 readers survive");
        last["$"]["r"].as_str().unwrap_or_default().to_owned()
    }

    /// The delimited bytes that come next, as they are.
    pub async fn next_bytes(&mut self) -> Vec<u8> {
        timeout(PATIENCE, async {
            loop {
                if let Some(frame) = self.decoder.next_frame().unwrap() {
                    return [&frame[..], &protocol::DELIMITER].concat();
                }
                assert!(self.stream.read_buf(self.decoder.buffer()).await.unwrap() > 0, "the end of the stream");
            }
        })
        .await
        .unwrap()
    }

    /// Bytes that have arrived and are not taken yet, the kernel's included.
    pub fn unread(&mut self) -> usize {
        while self.stream.try_read_buf(self.decoder.buffer()).is_ok_and(|bytes| bytes > 0) {}
        self.decoder.unfinished().len()
    }

    /// Closes with a FIN.
    pub fn close(self) {}

    /// Closes with a RST, as a crash of the machine or a cut by a firewall would.
    pub fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// A raw node: accepts calls and answers them, or not.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
}

impl Listener {
    /// Listens on a port of its own.
    pub async fn bind() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    /// Listens on a given address.
    pub async fn bind_at(address: SocketAddr) -> Self {
        Self { listener: TcpListener::bind(address).await.unwrap() }
    }

    /// An address where connects are neither answered nor refused, because its backlog is full.
    /// Keep both sockets as long as the address is needed.
    pub async fn black_hole() -> (Socket, u16, Vec<Socket>) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap();
        let fillers = (0..4)
            .map(|_| {
                let filler = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                filler.set_nonblocking(true).unwrap();
                let _ = filler.connect(&address);
                filler
            })
            .collect();
        (socket, address.as_socket().unwrap().port(), fillers)
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// The next caller.
    pub async fn accept(&self) -> Peer {
        Peer::over(timeout(PATIENCE, self.listener.accept()).await.expect("a caller").unwrap().0)
    }
}
