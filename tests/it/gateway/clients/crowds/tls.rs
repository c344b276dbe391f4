//! Crowds of clients that speak TLS, or begin to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use gateway::{CertificateFiles, Config, FixedServer, Listeners, RouteConfig, Stop};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use tests::{Cluster, GatewayFiles};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsConnector;

use super::{BIG, connect, route, server};

/// The behaviour of a client that speaks TLS, or stops before.
#[derive(Clone, Copy, Debug)]
enum TlsAttack {
    Nothing,
    HalfHello,
    /// These bytes after the handshake.
    Says(&'static [u8]),
}

impl TlsAttack {
    /// The connection, to be kept.
    async fn begin(self, from: u8, at: SocketAddr, client: &Arc<ClientConfig>) -> Box<dyn Send> {
        let mut stream = connect(from, at).await;
        let name = ServerName::try_from("a.test").unwrap();
        match self {
            Self::Nothing => Box::new(stream),
            Self::HalfHello => {
                let mut hello = Vec::new();
                let mut session = ClientConnection::new(Arc::clone(client), name).unwrap();
                session.write_tls(&mut hello).unwrap();
                let _ = stream.write_all(&hello[..hello.len() / 2]).await;
                Box::new(stream)
            }
            Self::Says(first) => match TlsConnector::from(Arc::clone(client)).connect(name, stream).await {
                Ok(mut stream) => {
                    let _ = stream.write_all(first).await;
                    let _ = stream.flush().await;
                    Box::new(stream)
                }
                Err(refused) => Box::new(refused),
            },
        }
    }
}

/// As `check_new_client_is_served` in `crowds`, over TLS.
async fn check_new_client_is_served(attack: TlsAttack, protocol: &str) {
    const CONNECTIONS: usize = 100;
    let (cluster, files) = (Cluster::start(), GatewayFiles::new());
    files.certificate("a", &["a.test"]);
    let certificates = vec![CertificateFiles { chain: files.path("a.pem"), key: files.path("a.key") }];
    let servers = vec![FixedServer { address: server().await.0.into(), weight: 100 }];
    let routes = vec![RouteConfig { servers, max_connections: 4 * CONNECTIONS, ..route() }];
    let distributor = cluster.address.to_string();
    let config = Config { distributor, max_connections: CONNECTIONS, certificates, routes, ..Config::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let stop = Stop::default();
    let _stops = [stop.drain.clone().drop_guard(), stop.admin.clone().drop_guard()];
    let (_sender, config) = watch::channel(Arc::new(config));
    tokio::spawn(gateway::serve_all(Listeners { https: vec![listener], ..Listeners::default() }, config, stop));
    let client = files.client(&[protocol]);
    let begin = async |number: usize| attack.begin(2 + u8::try_from(number % 50).unwrap(), at, &client).await;
    let attackers = join_all((0..2 * CONNECTIONS).map(begin)).await;
    sleep(Duration::from_millis(1200)).await;
    let good = TlsConnector::from(files.client(&["http/1.1"]));
    for number in 0..20 {
        let started = Instant::now();
        let name = ServerName::try_from("a.test").unwrap();
        let mut stream = good.connect(name, connect(1, at).await).await.unwrap();
        let seen = tests::ask_tls(&mut stream, "/", "a.test").await;
        let took = started.elapsed();
        assert!(
            seen.starts_with("HTTP/1.1 200 ") && took < Duration::from_secs(2),
            "{attack:?} {number}: {seen} after {took:?}"
        );
    }
    drop(attackers);
}

#[tokio::test]
async fn gh9_clients_that_speak_tls_and_stop_are_evicted_for_new_ones() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for (attack, protocol) in [
        (TlsAttack::Nothing, "http/1.1"),
        (TlsAttack::HalfHello, "http/1.1"),
        (TlsAttack::Says(b""), "http/1.1"),
        (TlsAttack::Says(b"GET / HTTP/1.1\r\nHost: g\r\n"), "http/1.1"),
        (TlsAttack::Says(BIG.as_bytes()), "http/1.1"),
        (TlsAttack::Says(b""), "h2"),
        (TlsAttack::Says(preface), "h2"),
    ] {
        check_new_client_is_served(attack, protocol).await;
    }
}
