//! Certificates, and clients of the gateway that speak TLS.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::PATIENCE;

/// A folder with a configuration file and certificates.
#[derive(Debug)]
pub struct GatewayFiles {
    folder: tempfile::TempDir,
    authority: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

impl GatewayFiles {
    /// An empty folder, and an authority that signs certificates.
    #[expect(clippy::new_without_default, reason = "it makes a folder")]
    pub fn new() -> Self {
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let authority = rcgen::CertifiedIssuer::self_signed(parameters, key).unwrap();
        Self { folder: tempfile::tempdir().unwrap(), authority }
    }

    /// Where a file of this name is, or would be.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a certificate for these names; returns what the configuration file says of it.
    pub fn certificate(&self, name: &str, for_names: &[&str]) -> String {
        let names: Vec<String> = for_names.iter().map(|name| (*name).to_owned()).collect();
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &self.authority).unwrap();
        let (chain, private) = (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")));
        std::fs::write(&chain, certificate.pem()).unwrap();
        std::fs::write(&private, key.serialize_pem()).unwrap();
        format!("{{ chain = {chain:?}, key = {private:?} }}")
    }

    /// Writes the configuration file.
    pub fn write(&self, text: &str) -> PathBuf {
        let file = self.path("gateway.toml");
        std::fs::write(&file, text).unwrap();
        file
    }

    /// A client that trusts this authority and no other.
    pub fn client(&self, protocols: &[&str]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(self.authority.der().to_vec())).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

/// Connects and shakes hands.
pub async fn connect_tls(
    client: &Arc<ClientConfig>,
    at: SocketAddr,
    name: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(at).await?;
    TlsConnector::from(Arc::clone(client)).connect(ServerName::try_from(name.to_owned()).unwrap(), stream).await
}

/// Sends a request, and reads the head and body of its response. The connection stays open.
pub async fn ask_tls(stream: &mut TlsStream<TcpStream>, path: &str, host: &str) -> String {
    let text = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    loop {
        let seen = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = seen.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
            if body.len() >= length.parse::<usize>().unwrap() {
                return seen;
            }
        }
        let read = timeout(PATIENCE, stream.read_buf(&mut bytes)).await.expect("an answer").unwrap();
        assert!(read > 0, "the end instead of an answer: {seen}");
    }
}
