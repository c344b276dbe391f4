//! The servers that a file names.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use net::{SettingValue, UnixPath, ValueKind};
use protocol::{Advert, HostPort};

/// A server that does not register, or all servers of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedServer {
    /// The address of the server. Each address of a name is a server.
    pub address: FixedAddress,
    /// The share of the server, in hundredths of the usual one.
    pub weight: u16,
}

/// The address of a server that does not register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FixedAddress {
    /// The server listens at an address or a name, and a port.
    Host(HostPort),
    /// The server listens at a Unix socket of this machine.
    Unix(UnixPath),
}

impl FixedAddress {
    /// The host and port; `None` for a Unix socket.
    pub fn host(&self) -> Option<&HostPort> {
        match self {
            Self::Host(host) => Some(host),
            Self::Unix(_) => None,
        }
    }
}

impl FromStr for FixedAddress {
    /// The mistake, in words.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if UnixPath::is_meant(text) {
            return text.parse().map(Self::Unix).map_err(|error: net::UnixPathError| error.to_string());
        }
        HostPort::read(text, None).map(Self::Host)
    }
}

impl From<HostPort> for FixedAddress {
    fn from(host: HostPort) -> Self {
        Self::Host(host)
    }
}

impl From<SocketAddr> for FixedAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Host(address.into())
    }
}

impl From<UnixPath> for FixedAddress {
    fn from(path: UnixPath) -> Self {
        Self::Unix(path)
    }
}

impl fmt::Display for FixedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => host.fmt(f),
            Self::Unix(path) => path.fmt(f),
        }
    }
}

impl SettingValue for FixedAddress {
    const KIND: ValueKind = ValueKind::Text;
    const UNIT: &'static str = "SERVER";
    const EXAMPLE: &'static str = "10.0.0.1:8080";
    type Rule = ();

    fn read(text: &str, _rule: Option<&()>) -> Result<Self, String> {
        text.parse()
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

/// A server with the usual weight; tables are read elsewhere.
impl SettingValue for FixedServer {
    const KIND: ValueKind = ValueKind::Table;
    const UNIT: &'static str = "SERVER";
    const EXAMPLE: &'static str = "10.0.0.1:8080";
    type Rule = ();

    fn read(text: &str, _rule: Option<&()>) -> Result<Self, String> {
        Ok(Self { address: text.parse()?, weight: Advert::DEFAULT_WEIGHT })
    }

    fn show(&self) -> Option<String> {
        Some(self.address.to_string())
    }
}
