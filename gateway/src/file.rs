//! The configuration file: TOML, with the names that the command line has, and servers that do not register.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use daemon::{duration, listen_address};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::access_log::AccessLogFormat;
use crate::cli::{AdminAddress, admin_address, host_and_port};
use crate::config::Upstream;
use crate::path::normal;

/// Names that are this alike may have been meant.
const ALIKE: f64 = 0.8;

/// What a file says; the rest is as the command line, or nobody, says.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct File {
    pub(crate) listen: Option<Parsed<SocketAddr>>,
    pub(crate) admin: Option<Parsed<AdminAddress>>,
    #[serde(deserialize_with = "distributor")]
    pub(crate) distributor: Option<String>,
    pub(crate) workers: Option<u16>,
    pub(crate) cache: Option<PathBuf>,
    pub(crate) request_timeout: Option<Parsed<Duration>>,
    pub(crate) response_idle_timeout: Option<Parsed<Duration>>,
    pub(crate) max_body_bytes: Option<usize>,
    pub(crate) max_connections: Option<usize>,
    pub(crate) header_timeout: Option<Parsed<Duration>>,
    pub(crate) idle_timeout: Option<Parsed<Duration>>,
    pub(crate) write_timeout: Option<Parsed<Duration>>,
    pub(crate) drain_timeout: Option<Parsed<Duration>>,
    pub(crate) empty_404: Option<bool>,
    pub(crate) access_log: Option<Parsed<AccessLogFormat>>,
    #[serde(deserialize_with = "upstreams")]
    pub(crate) upstream: Vec<Upstream>,
}

/// A text with a form of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parsed<T>(pub(crate) T);

/// What is wrong with a file, and where.
#[derive(Debug)]
pub(crate) struct FileError {
    file: PathBuf,
    /// Line and column, from 1.
    place: Option<(usize, usize)>,
    message: String,
}

impl File {
    /// Reads a file.
    ///
    /// # Errors
    /// [`FileError`] says what to change.
    pub(crate) fn read(file: &Path) -> Result<Self, FileError> {
        let wrong = |place, message| FileError { file: file.to_owned(), place, message };
        let text = std::fs::read_to_string(file).map_err(|error| wrong(None, error.to_string()))?;
        Self::parse(&text).map_err(|(place, message)| wrong(place, message))
    }

    fn parse(text: &str) -> Result<Self, (Option<(usize, usize)>, String)> {
        toml::from_str(text).map_err(|error| {
            let place = error.span().map(|span| {
                let before = &text[..span.start];
                let line = before.rsplit('\n').next().unwrap_or_default();
                (before.matches('\n').count() + 1, line.chars().count() + 1)
            });
            (place, explained(error.message()))
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

fn distributor<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    host_and_port(&String::deserialize(deserializer)?).map(Some).map_err(D::Error::custom)
}

/// `[[upstream]]`, each with one prefix or several.
fn upstreams<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Upstream>, D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Table {
        prefix: OneOrMore,
        servers: Vec<Parsed<SocketAddr>>,
        #[serde(default)]
        strip: bool,
    }
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a path such as \"/api\", or a list of them")]
    enum OneOrMore {
        One(String),
        More(Vec<String>),
    }
    let tables: Vec<Table> = Deserialize::deserialize(deserializer)?;
    tables
        .into_iter()
        .map(|Table { prefix, servers, strip }| {
            let prefixes = match prefix {
                OneOrMore::One(prefix) => vec![prefix],
                OneOrMore::More(prefixes) => prefixes,
            };
            for prefix in &prefixes {
                normal(prefix).map_err(|bad| D::Error::custom(format!("prefix `{prefix}`: {}", bad.0)))?;
            }
            if servers.is_empty() || prefixes.is_empty() {
                return Err(D::Error::custom("an upstream has a prefix and servers, one of each at least"));
            }
            let servers = servers.into_iter().map(|Parsed(server)| server).collect();
            Ok(Upstream { prefixes, servers, strip })
        })
        .collect()
}

impl<'de> Deserialize<'de> for Parsed<Duration> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        duration(&String::deserialize(deserializer)?).map(Self).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Parsed<AdminAddress> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        admin_address(&String::deserialize(deserializer)?).map(Self).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Parsed<AccessLogFormat> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        AccessLogFormat::from_str(&text, false).map(Self).map_err(|_| D::Error::custom("write off, text or json"))
    }
}

impl<'de> Deserialize<'de> for Parsed<SocketAddr> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        listen_address(&text).map(Self).map_err(|error| D::Error::custom(format!("`{text}`: {error}")))
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_it_wants_to() {
        let file = File::parse(
            r#"
            listen = "0.0.0.0:80"
            request_timeout = "250ms"
            empty_404 = true
            [[upstream]]
            prefix = "/old"
            servers = ["127.0.0.1:8080", "[::1]:8080"]
            strip = true
            [[upstream]]
            prefix = ["/a", "/b"]
            servers = ["localhost:1"]
            "#,
        )
        .unwrap();
        assert_eq!(file.request_timeout.unwrap().0, Duration::from_millis(250));
        assert_eq!((file.listen.unwrap().0.port(), file.empty_404, file.workers), (80, Some(true), None));
        let [old, both] = &file.upstream[..] else { panic!("two") };
        assert_eq!(
            (old.servers.len(), old.strip, &both.prefixes[..]),
            (2, true, &["/a".to_owned(), "/b".to_owned()][..])
        );
    }

    #[test]
    fn oe1_oe2_what_is_wrong_is_named_with_its_place() {
        for (text, place, message) in [
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
            ("idle_timeout = \"soon\"", (1, 16), "write it like 10s"),
            ("workers = -1", (1, 11), "invalid value: integer `-1`"),
            ("listen = ", (1, 10), ""),
            ("listen = \"127.0.0.1:1\"\nlisten = \"127.0.0.1:1\"", (2, 1), "duplicate key"),
            ("[[upstream]]\nprefix = \"/a\"", (1, 1), "missing field `servers`"),
            ("[[upstream]]\nprefix = \"/a\"\nservers = []", (1, 1), "one of each"),
            ("[[upstream]]\nprefix = \"/..\"\nservers = [\"127.0.0.1:1\"]", (1, 1), "out of the root"),
            ("[[upstream]]\nprefx = \"/a\"\nservers = []", (2, 1), "did you mean `prefix`?"),
        ] {
            let (seen_place, seen) = File::parse(text).unwrap_err();
            assert!(seen.contains(message), "{text}: {seen}");
            assert_eq!(seen_place, Some(place), "{text}: {seen}");
        }
    }
}
