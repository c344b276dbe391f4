//! TLS for clients: certificates from files, the right one for each name, and new ones without
//! losing a connection.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use net::QueuedSocket;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, ServerConnection, version};
use tokio::net::TcpStream;
use tokio_rustls::{Accept, TlsAcceptor};
use tracing::warn;

use crate::config::CertificateFiles;

/// Bytes of records that wait for a client that does not read.
const MAX_UNSENT_BYTES: usize = 64 * 1024;
/// Unsent bytes of a client that connects while many are connected: one record.
const MAX_UNSENT_BYTES_IN_A_CROWD: usize = 16 * 1024;
/// The bytes of a session: its own, a record that is not whole, and a record that has not been read
/// from it.
const SESSION_BYTES: usize = 48 * 1024;

/// The certificates, by name.
pub(crate) struct Tls {
    certificates: Arc<Certificates>,
    acceptor: TlsAcceptor,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("certificates", &self.certificates).finish_non_exhaustive()
    }
}

/// The certificates that clients are shown. They are replaced as a whole.
#[derive(Debug)]
struct Certificates {
    current: RwLock<Arc<CertificateTable>>,
}

#[derive(Debug)]
struct CertificateTable {
    /// The first certificate, for clients that name no host, or a host without a certificate.
    usual: Arc<CertifiedKey>,
    /// The certificates by name, in small letters; `*.` stands for one label.
    names: HashMap<String, Arc<CertifiedKey>>,
}

/// A certificate that cannot be used.
#[derive(Debug)]
pub(crate) struct CertificateError {
    file: PathBuf,
    why: String,
}

impl Tls {
    /// Reads certificates.
    ///
    /// # Errors
    /// [`CertificateError`] names the file, and what to do.
    pub(crate) fn new(files: &[CertificateFiles]) -> Result<Self, CertificateError> {
        let certificates = Arc::new(Certificates { current: RwLock::new(Arc::new(CertificateTable::read(files)?)) });
        let versions = [&version::TLS13, &version::TLS12];
        let provider = Arc::new(ring::default_provider());
        let unusable = |error: rustls::Error| CertificateError { file: PathBuf::new(), why: error.to_string() };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .map_err(unusable)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&certificates) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Resumption without memory: the client holds the state of its session, under a key that
        // changes every few hours. It survives new certificates, and never allows early data, which
        // others could replay (RFC 8446, 8).
        config.ticketer = ring::Ticketer::new().map_err(unusable)?;
        Ok(Self { certificates, acceptor: TlsAcceptor::from(Arc::new(config)) })
    }

    /// Reads the certificates again, for clients that connect from now on. On errors the old ones
    /// stay in use.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(crate) fn reload(&self, files: &[CertificateFiles]) -> Result<(), CertificateError> {
        let table = Arc::new(CertificateTable::read(files)?);
        *self.certificates.current.write().unwrap_or_else(PoisonError::into_inner) = table;
        Ok(())
    }

    /// Makes the TLS handshake with a client. With `is_crowded`, many clients are connected.
    pub(crate) fn accept(&self, stream: TcpStream, is_crowded: bool) -> Accept<QueuedSocket> {
        self.acceptor.accept_with(stream.into(), |session| limit_unsent(session, is_crowded))
    }

    /// Maximum memory of a session.
    pub(crate) fn session_bytes(is_crowded: bool) -> usize {
        SESSION_BYTES + max_unsent_bytes(is_crowded)
    }
}

fn limit_unsent(session: &mut ServerConnection, is_crowded: bool) {
    session.set_buffer_limit(Some(max_unsent_bytes(is_crowded)));
}

fn max_unsent_bytes(is_crowded: bool) -> usize {
    if is_crowded { MAX_UNSENT_BYTES_IN_A_CROWD } else { MAX_UNSENT_BYTES }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let table = Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner));
        Some(table.find(hello.server_name()))
    }
}

impl CertificateTable {
    fn read(files: &[CertificateFiles]) -> Result<Self, CertificateError> {
        let mut names = HashMap::new();
        let mut usual = None;
        for files in files {
            let key = Arc::new(read(files)?);
            for name in dns_names(&key) {
                // The first certificate for a name wins, as the first of all does for clients
                // without a name.
                names.entry(name).or_insert_with(|| Arc::clone(&key));
            }
            usual.get_or_insert(key);
        }
        let none = || CertificateError { file: PathBuf::new(), why: "no certificate is configured".to_owned() };
        Ok(Self { usual: usual.ok_or_else(none)?, names })
    }

    fn find(&self, name: Option<&str>) -> Arc<CertifiedKey> {
        let exact = name.and_then(|name| self.names.get(&name.to_ascii_lowercase()));
        let wild = || {
            let (_, parent) = name?.split_once('.')?;
            self.names.get(&format!("*.{}", parent.to_ascii_lowercase()))
        };
        Arc::clone(exact.or_else(wild).unwrap_or(&self.usual))
    }
}

/// A certificate with its chain and its key.
fn read(files: &CertificateFiles) -> Result<CertifiedKey, CertificateError> {
    let CertificateFiles { chain: chain_file, key: key_file } = files;
    let wrong = |file: &Path, why: String| CertificateError { file: file.to_owned(), why };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(chain_file)
        .and_then(Iterator::collect)
        .map_err(|error| wrong(chain_file, explain(&error, "a CERTIFICATE")))?;
    if chain.is_empty() {
        return Err(wrong(chain_file, "it contains no CERTIFICATE in PEM form".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| {
        let text = std::fs::read_to_string(key_file).unwrap_or_default();
        let encrypted = text.contains("ENCRYPTED");
        let why = if encrypted {
            "the key is encrypted; store it decrypted: openssl pkey -in KEY -out NEW".to_owned()
        } else {
            explain(&error, "a PRIVATE KEY")
        };
        wrong(key_file, why)
    })?;
    warn_of_readers(key_file);
    let key = ring::sign::any_supported_type(&key).map_err(|error| wrong(key_file, error.to_string()))?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err(wrong(key_file, format!("the key does not belong to the certificate in {}", chain_file.display())))
        }
        Err(error) => Err(wrong(chain_file, format!("the first certificate cannot be read: {error}"))),
    }
}

fn explain(error: &pem::Error, wanted: &str) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => format!("it contains no {} in PEM form", wanted.trim_start_matches("a ")),
        other => format!("it must contain {wanted} in PEM form: {other}"),
    }
}

/// Warns if others can read the key: they could pose as this gateway. Files may be mounted with
/// fixed rights, so this is only a warning.
fn warn_of_readers(key: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(key).map_or(0, |file| file.permissions().mode());
        if mode & 0o004 != 0 {
            warn!(key = %key.display(), "every user of this machine can read the key; run chmod 600 on it");
        }
    }
}

/// The names for which a certificate is valid.
fn dns_names(key: &CertifiedKey) -> Vec<String> {
    let parsed = key.cert.first().and_then(|certificate| webpki::EndEntityCert::try_from(certificate).ok());
    parsed.iter().flat_map(|certificate| certificate.valid_dns_names()).map(str::to_ascii_lowercase).collect()
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.as_os_str().is_empty() {
            write!(f, "{}: ", self.file.display())?;
        }
        f.write_str(&self.why)
    }
}

impl std::error::Error for CertificateError {}

impl From<CertificateError> for io::Error {
    fn from(error: CertificateError) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[derive(Debug)]
    struct NoCertificate;

    impl ResolvesServerCert for NoCertificate {
        fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            None
        }
    }

    #[test]
    fn gh30_a_session_takes_little_for_a_client_that_does_not_read() {
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_protocol_versions(&[&version::TLS13]).unwrap().with_no_client_auth();
        let config = Arc::new(config.with_cert_resolver(Arc::new(NoCertificate)));
        for (is_crowded, expected) in [(false, MAX_UNSENT_BYTES), (true, MAX_UNSENT_BYTES_IN_A_CROWD)] {
            let mut session = ServerConnection::new(Arc::clone(&config)).unwrap();
            limit_unsent(&mut session, is_crowded);
            let taken: usize = std::iter::repeat_with(|| session.writer().write(&[0; 5000]).unwrap())
                .take_while(|taken| *taken > 0)
                .sum();
            assert_eq!(taken, expected, "{is_crowded}");
        }
    }
}
