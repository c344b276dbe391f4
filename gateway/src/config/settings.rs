//! All settings of the process, from the command line, the environment and the file.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use net::{LogFormat, LogLevel, Setting, SettingPlace, SettingValue, Settings as _, ValueKind, listen_address};
use node_sdk::gateway::NO_DISTRIBUTOR;
use protocol::HostPort;

use crate::config::Config;

/// All settings, from all sources.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    pub(crate) process: ProcessSettings,
    /// The address for TLS.
    pub(crate) tls: Option<SocketAddr>,
    pub(crate) config: Config,
    /// Warnings about settings without effect.
    pub(crate) warnings: Vec<String>,
}

net::settings! {
    /// Settings that only the program needs.
    #[derive(Debug)]
    pub(crate) struct ProcessSettings {
        /// Address to serve HTTP on.
        pub(crate) listen: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8000);
        /// Address for /health, /ready, /metrics and /routes; `off` for none. Unless given,
        /// 127.0.0.1:8001, or none if that is taken.
        pub(crate) admin: Option<AdminAddress> = None;
        /// Threads that serve; one for each core unless given.
        pub(crate) workers: Option<u16> = None, where 1..=1024, like "4";
        /// File with the id of the process that is the service, also after SIGUSR2. It is removed
        /// at the end.
        pub(crate) pid_file: Option<PathBuf> = None, like "/run/gateway.pid";
        /// Answer requests over http by 308 to https, except below `/.well-known/acme-challenge/`.
        /// It needs `[tls]`, or proxies in `trusted` or `proxy_protocol` that speak TLS.
        @File pub(crate) redirect: bool = false;
        /// Form of the log on standard error.
        @CommandLine pub(crate) log_format: LogFormat = LogFormat::default();
        /// off, error, warn, info, debug, trace, or levels per module.
        @CommandLine pub(crate) log_level: LogLevel = LogLevel::default();
    }
}

/// The keys of the file above all tables.
pub(crate) fn top_level() -> impl Iterator<Item = &'static Setting> + Clone {
    let all = ProcessSettings::SETTINGS.iter().chain(Config::SETTINGS);
    all.filter(|setting| setting.place != SettingPlace::CommandLine)
}

impl ProcessSettings {
    /// The number of serving threads.
    pub(crate) fn worker_count(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.workers.map_or_else(cores, usize::from)
    }
}

/// The address for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AdminAddress {
    Off,
    At(SocketAddr),
}

impl SettingValue for AdminAddress {
    const KIND: ValueKind = ValueKind::Text;
    const UNIT: &'static str = "ADDRESS";
    const EXAMPLE: &'static str = "127.0.0.1:8001";
    type Rule = ();

    fn read(text: &str, _rule: Option<&()>) -> Result<Self, String> {
        if text == "off" { Ok(Self::Off) } else { listen_address(text).map(Self::At) }
    }

    fn show(&self) -> Option<String> {
        match self {
            Self::Off => Some("off".to_owned()),
            Self::At(address) => address.show(),
        }
    }
}

/// The address for operators, which only this machine reaches.
pub(crate) const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8001);

/// `off`, or a name or address with a port; the name is looked up at every attempt to connect, so
/// it need not be known yet.
pub(super) fn host_and_port(text: &str) -> Result<(), String> {
    if text == NO_DISTRIBUTOR {
        return Ok(());
    }
    text.parse::<HostPort>().map(drop).map_err(|error| error.to_string())
}
