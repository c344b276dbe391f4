//! The configuration file: TOML, with the names that the command line has, and what takes more than
//! a line to say.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use protocol::HostPort;
use serde::Deserialize;

use super::values::{Parsed, certificates, distributor, routes, secret};
use crate::config::settings::AdminAddress;
use crate::config::{CertificateFiles, Route};
use crate::observe::access_log::AccessLogFormat;

/// Names that are this alike may have been meant.
const ALIKE: f64 = 0.8;

/// What a file says. What it leaves out is as the command line says, or the default.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ConfigFile {
    pub(crate) listen: Option<Parsed<SocketAddr>>,
    pub(crate) admin: Option<Parsed<AdminAddress>>,
    #[serde(deserialize_with = "distributor")]
    pub(crate) distributor: Option<String>,
    pub(crate) advertise: Option<Parsed<HostPort>>,
    pub(crate) workers: Option<u16>,
    pub(crate) cache: Option<PathBuf>,
    pub(crate) request_timeout: Option<Parsed<Duration>>,
    pub(crate) response_idle_timeout: Option<Parsed<Duration>>,
    pub(crate) max_body_bytes: Option<usize>,
    pub(crate) max_held_bytes: Option<usize>,
    pub(crate) max_connections: Option<usize>,
    pub(crate) header_timeout: Option<Parsed<Duration>>,
    pub(crate) idle_timeout: Option<Parsed<Duration>>,
    pub(crate) write_timeout: Option<Parsed<Duration>>,
    pub(crate) drain_timeout: Option<Parsed<Duration>>,
    pub(crate) empty_404: Option<bool>,
    pub(crate) access_log: Option<Parsed<AccessLogFormat>>,
    pub(crate) handshake_timeout: Option<Parsed<Duration>>,
    pub(crate) h2c: Option<bool>,
    pub(crate) redirect: bool,
    pub(crate) proxy_protocol: Vec<Parsed<IpNet>>,
    pub(crate) trusted: Vec<Parsed<IpNet>>,
    #[serde(deserialize_with = "secret")]
    pub(crate) cookie_secret: Option<String>,
    pub(crate) tls: Option<TlsTable>,
    #[serde(deserialize_with = "routes")]
    pub(crate) route: Vec<Route>,
}

/// `[tls]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TlsTable {
    pub(crate) listen: Parsed<SocketAddr>,
    #[serde(deserialize_with = "certificates")]
    pub(crate) certificates: Vec<CertificateFiles>,
}

/// What is wrong with a file, and where.
#[derive(Debug)]
pub(crate) struct FileError {
    file: PathBuf,
    /// Line and column, from 1.
    position: Option<(usize, usize)>,
    message: String,
}

impl ConfigFile {
    /// Reads a file.
    ///
    /// # Errors
    /// [`FileError`] says what to change.
    pub(crate) fn read(file: &Path) -> Result<Self, FileError> {
        let wrong = |position, message| FileError { file: file.to_owned(), position, message };
        let text = std::fs::read_to_string(file).map_err(|error| wrong(None, error.to_string()))?;
        Self::parse(&text).map_err(|(position, message)| wrong(position, message))
    }

    /// A file that says nothing at all is taken for one that was lost, or cut while it was written:
    /// defaults need no file.
    pub(crate) fn parse(text: &str) -> Result<Self, (Option<(usize, usize)>, String)> {
        let says = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
        if !text.trim_start_matches('\u{feff}').lines().any(says) {
            return Err((None, "it says nothing; a gateway that is to have the defaults needs no file".to_owned()));
        }
        toml::from_str(text).map_err(|error| {
            let position = error.span().map(|span| {
                let before = &text[..span.start];
                let line = before.rsplit('\n').next().unwrap_or_default();
                (before.matches('\n').count() + 1, line.chars().count() + 1)
            });
            (position, explained(error.message()))
        })
    }
}

/// In an error about a name, the one that was meant.
fn explained(message: &str) -> String {
    let mut names = message.split('`').skip(1).step_by(2);
    let (Some(unknown), true) = (names.next(), message.starts_with("unknown field")) else {
        return message.replace('\n', "; ");
    };
    let alike = names.map(|name| (strsim::jaro_winkler(unknown, name), name));
    let meant = alike.filter(|(alike, _)| *alike >= ALIKE).max_by(|(a, _), (b, _)| a.total_cmp(b));
    match meant {
        Some((_, meant)) => format!("unknown key `{unknown}`; did you mean `{meant}`?"),
        None => message.replacen("unknown field", "unknown key", 1),
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some((line, column)) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Check, Sticky};
    use crate::route::limits::RateBy;

    #[test]
    fn a_file_says_what_it_wants_to() {
        let file = ConfigFile::parse(
            r#"
            listen = "0.0.0.0:80"
            request_timeout = "250ms"
            empty_404 = true
            redirect = true
            trusted = ["10.0.0.0/8", "::1"]
            [tls]
            listen = "0.0.0.0:443"
            certificates = [{ chain = "a.pem", key = "b.pem" }]
            [[route]]
            prefix = "/old"
            servers = ["127.0.0.1:8080", { address = "[::1]:8080", weight = 50 }]
            strip = true
            balance = "cookie"
            check = "/health"
            rate = { requests = 5, by = "header:X-Key" }
            [[route]]
            prefix = ["/a", "/b"]
            timeout = "1m"
            at_most = 7
            check = "GET/health"
            "#,
        )
        .unwrap();
        assert_eq!(file.request_timeout.unwrap().0, Duration::from_millis(250));
        assert_eq!((file.listen.unwrap().0.port(), file.empty_404, file.workers), (80, Some(true), None));
        let tls = file.tls.unwrap();
        assert_eq!((tls.listen.0.port(), tls.certificates.len(), file.redirect, file.trusted.len()), (443, 1, true, 2));
        let [old, both] = &file.route[..] else { panic!("two") };
        assert_eq!([100, 50], [old.servers[0].weight, old.servers[1].weight]);
        assert_eq!(
            (old.strip, old.sticky, &old.check),
            (true, Some(Sticky::Cookie), &Some(Check::Http("/health".to_owned())))
        );
        let rate = old.limits.rate.clone().unwrap();
        assert_eq!((rate.requests, rate.burst, rate.by), (5, 5, RateBy::Header("x-key".to_owned())));
        assert_eq!(both.prefixes, ["/a", "/b"]);
        assert_eq!((both.timeout, both.limits.max_concurrency), (Some(Duration::from_secs(60)), Some(7)));
        assert_eq!((&both.check, both.node_check.as_deref()), (&None, Some("GET/health")));
    }

    #[test]
    fn oe16_a_file_that_says_nothing_is_refused() {
        for (text, expected) in [
            ("", false),
            ("\n \t\n", false),
            ("# listen = \"127.0.0.1:1\"\n", false),
            ("\u{feff}", false),
            ("workers = 1", true),
            ("# a\n[[route]]\nprefix = \"/\"", true),
        ] {
            assert_eq!(ConfigFile::parse(text).is_ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn oe1_oe2_what_is_wrong_is_named_with_its_place() {
        for (text, position, message) in [
            ("lisen = \"a\"", (1, 1), "unknown key `lisen`; did you mean `listen`?"),
            (
                "workers = 1\n  request_timout = \"1s\"",
                (2, 3),
                "unknown key `request_timout`; did you mean `request_timeout`?",
            ),
            ("xyzzy = 1", (1, 1), "unknown key `xyzzy`, expected one of `listen`"),
            ("listen = \"nowhere\"", (1, 10), "write it like 127.0.0.1:9000"),
            ("listen = \"nowhere.invalid:80\"", (1, 10), "nowhere.invalid"),
            ("distributor = \"nowhere\"", (1, 15), "registry.example:9000"),
            ("idle_timeout = 10", (1, 16), "expected a string"),
            ("idle_timeout = \"soon\"", (1, 16), "such as 10s"),
            ("workers = -1", (1, 11), "invalid value: integer `-1`"),
            ("listen = ", (1, 10), ""),
            ("listen = \"127.0.0.1:1\"\nlisten = \"127.0.0.1:1\"", (2, 1), "duplicate key"),
            ("[[route]]\nstrip = true", (1, 1), "missing field `prefix`"),
            ("[[route]]\nprefix = []", (1, 1), "a route has a prefix"),
            ("[[route]]\nprefix = \"/..\"", (1, 1), "out of the root"),
            ("[[route]]\nprfix = \"/a\"", (2, 1), "did you mean `prefix`?"),
            ("[[route]]\nprefix = [\"/a\", \"/a/\"]", (1, 1), "has a route already"),
            ("[[route]]\nprefix = \"/\"\nservers = [\"a\"]", (3, 11), "a server such as"),
            ("[[route]]\nprefix = \"/\"\nat_most = 0", (1, 1), "a limit of 0"),
            ("[[route]]\nprefix = \"/\"\nmax_tunnels = 0", (1, 1), "a limit of 0"),
            ("[[route]]\nprefix = \"/\"\nclient_share = 0", (1, 1), "from 1 to 100"),
            ("[[route]]\nprefix = \"/\"\nclient_share = 101", (1, 1), "from 1 to 100"),
            ("[[route]]\nprefix = \"/\"\ncheck_every = \"0s\"", (1, 1), "at least 10ms"),
            ("[[route]]\nprefix = \"/\"\nbalance = \"best\"", (3, 11), "round_robin"),
            ("[[route]]\nprefix = \"/\"\ncheck = \"x\"", (3, 9), "/health"),
            ("[[route]]\nprefix = \"/\"\ncheck = \"get/health\"", (3, 9), "GET/health"),
            ("[[route]]\nprefix = \"/\"\ncheck = \"GET/a\"\nservers = [\"[::1]:1\"]", (1, 1), "servers speak HTTP"),
            ("[[route]]\nprefix = \"/\"\nrate = { requests = 1, by = \"x\" }", (3, 29), "header:NAME"),
            ("cookie_secret = \"\"", (1, 17), "at least 16 characters"),
            ("cookie_secret = \"fifteen letters\"", (1, 17), "at least 16 characters"),
            ("trusted = [\"x\"]", (1, 11), "10.0.0.0/8"),
            ("[tls]\nlisten = \"127.0.0.1:1\"\ncertificates = []", (3, 16), "TLS needs a certificate"),
        ] {
            let (seen_position, seen) = ConfigFile::parse(text).unwrap_err();
            assert!(seen.contains(message), "{text}: {seen}");
            assert_eq!(seen_position, Some(position), "{text}: {seen}");
        }
    }
}
