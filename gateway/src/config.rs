//! Every limit of the gateway, with its reason.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::access_log::AccessLogFormat;

/// Where the Distributor is, limits and time-outs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the Distributor is, `host:port`.
    pub distributor: String,
    /// Where to keep what is known of the services, for the next start.
    pub cache: Option<PathBuf>,
    /// How long a request may take from its last header byte to its answer.
    pub request_timeout: Duration,
    /// Bytes of one request body. Version 1 nodes take less than 64 KiB whatever this says.
    pub max_body_bytes: usize,
    /// Clients at a time; further ones are closed at once.
    pub max_connections: usize,
    /// How long the head of a request may take from its first byte to its last.
    pub header_timeout: Duration,
    /// How long a server that speaks HTTP may send nothing of a response that it has begun.
    pub response_idle_timeout: Duration,
    /// How long a client may be idle between requests.
    pub idle_timeout: Duration,
    /// How long a client may take nothing of its response.
    pub write_timeout: Duration,
    /// How long requests in flight may take to finish when we stop.
    pub drain_timeout: Duration,
    /// Unknown routes are answered as the old gateway did, by 404 with an empty body.
    pub empty_404: bool,
    /// How each request is logged on standard output.
    pub access_log: AccessLogFormat,
    /// Servers that do not register.
    pub upstreams: Vec<Upstream>,
}

/// Servers that speak HTTP and do not register: they are there for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Paths that they answer, with all that is below them.
    pub prefixes: Vec<String>,
    /// Where they are.
    pub servers: Vec<SocketAddr>,
    /// They want to be asked without the prefix.
    pub strip: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            distributor: "127.0.0.1:9000".to_owned(),
            cache: None,
            request_timeout: Duration::from_secs(10),
            max_body_bytes: 1 << 20,
            max_connections: 10_000,
            header_timeout: Duration::from_secs(10),
            response_idle_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(30),
            empty_404: false,
            access_log: AccessLogFormat::Off,
            upstreams: Vec::new(),
        }
    }
}
