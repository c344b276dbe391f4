//! All that the process is told, wherever it was said: command line, environment or file.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use net::listen_address;
use protocol::HostPort;

use crate::config::Config;

/// Everything that was said, wherever.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) listen: SocketAddr,
    /// Where TLS is spoken.
    pub(crate) tls: Option<SocketAddr>,
    pub(crate) admin: Option<AdminAddress>,
    pub(crate) workers: usize,
    pub(crate) config: Config,
}

/// Where operators may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AdminAddress {
    Off,
    At(SocketAddr),
}

pub(crate) fn admin_address(text: &str) -> Result<AdminAddress, String> {
    if text == "off" { Ok(AdminAddress::Off) } else { listen_address(text).map(AdminAddress::At) }
}

/// An address that others are told.
pub(crate) fn advertised(text: &str) -> Result<HostPort, String> {
    text.parse::<HostPort>().map_err(|error| error.to_string())
}

/// Only for this machine.
pub(crate) const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8001);

/// A name or address with a port; the name is looked up at every attempt to connect, so it need not
/// be known yet.
pub(crate) fn host_and_port(text: &str) -> Result<String, String> {
    match text.parse::<HostPort>() {
        Ok(_) => Ok(text.trim().to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
