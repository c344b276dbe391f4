//! The gateway and its competitors in front of one server, in clear and with TLS.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::daemon_process::Daemon;
use crate::report::row;

/// The gateway or a competitor in front of that server.
pub(crate) struct EdgeServer {
    pub(crate) name: &'static str,
    pub(crate) process: Daemon,
    /// The address at which it speaks TLS. A server that does not has only one address.
    pub(crate) secure: SocketAddr,
}

impl EdgeServer {
    pub(crate) fn speaks_tls(&self) -> bool {
        self.secure != self.process.address
    }
}

/// A certificate that all servers use, and a client that trusts it.
pub(crate) struct TrustAnything {
    folder: tempfile::TempDir,
    client: Arc<ClientConfig>,
}

impl TrustAnything {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (chain, key) = (cert.pem(), signing_key.serialize_pem());
        std::fs::write(folder.path().join("chain.pem"), &chain).unwrap();
        std::fs::write(folder.path().join("key.pem"), &key).unwrap();
        std::fs::write(folder.path().join("both.pem"), [chain, key].concat()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(cert.der().to_vec())).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]);
        let mut config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
        // Every handshake is a full one.
        config.resumption = rustls::client::Resumption::disabled();
        Self { folder, client: Arc::new(config) }
    }

    pub(crate) async fn connect(&self, address: SocketAddr) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        self.client().over(stream).await.unwrap()
    }

    /// The client alone, for another thread.
    pub(crate) fn client(&self) -> TlsClient {
        TlsClient(Arc::clone(&self.client))
    }

    /// The first packet of a handshake.
    pub(crate) fn client_hello(&self) -> Vec<u8> {
        let mut session = ClientConnection::new(Arc::clone(&self.client), server_name()).unwrap();
        let mut hello = Vec::new();
        session.write_tls(&mut hello).unwrap();
        hello
    }
}

/// A client that trusts the certificate of all servers.
#[derive(Clone)]
pub(crate) struct TlsClient(Arc<ClientConfig>);

impl TlsClient {
    /// Makes a handshake over this connection.
    pub(crate) async fn over(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsConnector::from(Arc::clone(&self.0)).connect(server_name(), stream).await
    }
}

fn server_name() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

/// The path of the gateway, which is beside this program.
pub(crate) fn gateway_program() -> String {
    std::env::current_exe().unwrap().with_file_name("gateway").to_str().unwrap().to_owned()
}

/// Starts the gateway, and nginx and haproxy if they are installed, in front of one server.
pub(crate) async fn fronts(trust: &TrustAnything, back_end: SocketAddr) -> Vec<EdgeServer> {
    let folder = trust.folder.path();
    let write = |name: &str, text: String| {
        let file = folder.join(name);
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let path = |name: &str| folder.join(name).display().to_string();
    let (chain, key, both) = (path("chain.pem"), path("key.pem"), path("both.pem"));
    let mut fronts = Vec::new();
    let mut add = |name, process: Option<Daemon>, secure: u16| match process {
        Some(process) => fronts.push(EdgeServer { name, process, secure: ([127, 0, 0, 1], secure).into() }),
        None => row(name, "not installed"),
    };
    let ours = write(
        "gateway.toml",
        format!(
            "listen = \"127.0.0.1:19120\"\nworkers = 1\nadmin = \"off\"\nh2c = true\n[tls]\nlisten = \"127.0.0.1:19121\"\n\
             certificates = [{{ chain = \"{chain}\", key = \"{key}\" }}]\n[[route]]\nprefix = \"/\"\nservers = [\"{back_end}\"]\n"
        ),
    );
    add(
        "gateway",
        Daemon::other(&gateway_program(), &["--config", &ours, "--log-level", "error"], 19_120).await,
        19_121,
    );
    let nginx = write(
        "nginx.conf",
        format!(
            "daemon off; master_process off; worker_processes 1; pid nginx.pid; error_log stderr crit;
events {{ worker_connections 12000; }}
http {{ access_log off; proxy_max_temp_file_size 0; keepalive_requests 100000000; ssl_protocols TLSv1.3; ssl_certificate {chain}; ssl_certificate_key {key};
  map $http_upgrade $up {{ default upgrade; '' ''; }}
  upstream back {{ server {back_end}; keepalive 64; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:19122 backlog=4096; listen 127.0.0.1:19123 ssl backlog=4096;
    location / {{ proxy_pass http://back; proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $up; }} }} }}
"
        ),
    );
    add("nginx", Daemon::other("nginx", &["-p", folder.to_str().unwrap(), "-c", &nginx], 19_122).await, 19_123);
    let haproxy = write(
        "haproxy.cfg",
        format!(
            "global
  nbthread 1
  maxconn 8000
defaults
  mode http
  timeout connect 1s
  timeout client 300s
  timeout server 300s
  timeout tunnel 300s
listen gateway
  bind 127.0.0.1:19124
  bind 127.0.0.1:19125 ssl crt {both}
  http-reuse always
  server back {back_end}
"
        ),
    );
    add("haproxy", Daemon::other("haproxy", &["-f", &haproxy], 19_124).await, 19_125);
    // Their TLS ports open a moment later.
    for front in &fronts {
        while TcpStream::connect(front.secure).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    }
    fronts
}

/// Starts a relay that only passes bytes on. The cost of a proxy beyond it is the proxy's own work.
pub(crate) async fn relay(back_end: SocketAddr) -> EdgeServer {
    let process = Daemon::server(&["relay", &back_end.to_string()]).await;
    EdgeServer { name: "a relay, nothing else", secure: process.address, process }
}
