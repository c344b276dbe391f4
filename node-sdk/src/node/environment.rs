//! Settings of a node that its operator gives in the environment.

use std::env;
use std::ffi::OsString;

use net::{MAX_ESCAPED_BYTES, escaped, warn};
use protocol::{Advert, HostPort};

use crate::node::NodeBuilder;

/// The beginning of the names of all variables. Node.js has variables of this prefix, too.
const PREFIX: &str = "NODE_";
/// Maximum bytes of a zone: it is shown in tables.
const MAX_ZONE_BYTES: usize = 128;

/// Sets what a variable says, or says what to write instead.
type SetVariable = fn(&mut NodeBuilder, &str) -> Result<(), String>;

/// The variables of a builder, each with its reader.
const VARIABLES: [(&str, SetVariable); 8] = [
    ("NODE_LISTEN", |node, text| {
        check_listen(text)?;
        node.listen = text.to_owned();
        Ok(())
    }),
    ("NODE_DISTRIBUTOR", |node, text| {
        text.parse::<HostPort>().map_err(|error| error.to_string())?;
        node.distributor = text.to_owned();
        Ok(())
    }),
    ("NODE_ADMIN", |node, text| {
        check_listen(text)?;
        node.admin = Some(text.to_owned());
        Ok(())
    }),
    ("NODE_ADVERTISE", |node, text| {
        text.parse::<HostPort>().map_err(|error| error.to_string())?;
        node.advertise = Some(text.to_owned());
        Ok(())
    }),
    ("NODE_ZONE", |node, text| {
        let is_plain = !text.is_empty() && text.len() <= MAX_ZONE_BYTES && !text.contains(char::is_control);
        if !is_plain {
            return Err(format!("write a name of 1 to {MAX_ZONE_BYTES} bytes"));
        }
        node.advert.zone = Some(text.to_owned());
        Ok(())
    }),
    ("NODE_WEIGHT", |node, text| {
        node.advert.weight = number(text, Advert::MAX_WEIGHT.into())?.try_into().unwrap_or(Advert::MAX_WEIGHT);
        Ok(())
    }),
    ("NODE_CACHE", |node, text| {
        if text.is_empty() {
            return Err("write the path of a file".to_owned());
        }
        node.cache = Some(text.into());
        Ok(())
    }),
    ("NODE_MAX_BUFFER_BYTES", |node, text| {
        node.max_buffer_bytes = number(text, usize::MAX as u64)?.try_into().unwrap_or(usize::MAX);
        Ok(())
    }),
];

/// Variables that other functions of this crate read.
const OTHER_VARIABLES: [&str; 2] = ["NODE_LOG_LEVEL", "NODE_LOG_FORMAT"];

impl NodeBuilder {
    /// Takes settings from the environment of the process, as the daemons do. A variable replaces
    /// what was set before this call, and what is set after it replaces the variable. So a service
    /// has its defaults first:
    ///
    /// ```no_run
    /// # async fn hello() -> Result<String, node_sdk::ServiceError> { Ok("Hello!".to_owned()) }
    /// # async fn example() -> Result<(), node_sdk::StartError> {
    /// use node_sdk::Node;
    ///
    /// let node = Node::builder("hello").listen("127.0.0.1:9010").environment();
    /// node.route("GET/hello", hello).public().serve().await
    /// # }
    /// ```
    ///
    /// | variable | as | value |
    /// |---|---|---|
    /// | `NODE_LISTEN` | [`listen`](Self::listen) | an address such as `0.0.0.0:9010` |
    /// | `NODE_DISTRIBUTOR` | [`distributor`](Self::distributor) | `host:port` |
    /// | `NODE_ADMIN` | [`admin`](Self::admin) | an address, such as `127.0.0.1:9011` |
    /// | `NODE_ADVERTISE` | [`advertise`](Self::advertise) | `host:port` |
    /// | `NODE_ZONE` | [`zone`](Self::zone) | a name of 1 to 128 bytes |
    /// | `NODE_WEIGHT` | [`weight`](Self::weight) | 0 to 1000 |
    /// | `NODE_CACHE` | [`cache`](Self::cache) | the path of a file |
    /// | `NODE_MAX_BUFFER_BYTES` | [`max_buffer_bytes`](Self::max_buffer_bytes) | bytes |
    ///
    /// A wrong value is a [`StartError::Environment`](crate::StartError::Environment) at the start,
    /// which names all of them. A variable that differs from one of these in a letter is a warning
    /// in the log. The name of the service is not among them: it belongs to its code, and in
    /// Kubernetes `NODE_NAME` is commonly the name of the machine.
    pub fn environment(self) -> Self {
        self.with_variables(env::vars_os())
    }

    fn with_variables(mut self, variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut given: Vec<(String, OsString)> =
            variables.into_iter().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect();
        given.retain(|(name, _)| name.starts_with(PREFIX));
        given.sort_unstable();
        for (name, value) in given {
            let Some((_, read)) = VARIABLES.iter().find(|(known, _)| *known == name) else {
                self.misspelt_variables.extend(meant_by(&name).map(|meant| (name, meant)));
                continue;
            };
            let text = value.to_str().ok_or_else(|| "it is not UTF-8".to_owned());
            if let Err(reason) = text.and_then(|text| read(&mut self, text)) {
                let value = escaped(value.to_string_lossy(), MAX_ESCAPED_BYTES);
                self.wrong_variables.push(format!("{name}={value}: {reason}"));
            }
        }
        self
    }

    /// Warns of variables that set nothing.
    pub(super) fn warn_of_misspelt_variables(&self) {
        for (name, meant) in &self.misspelt_variables {
            let name = escaped(name, MAX_ESCAPED_BYTES);
            warn!("the variable {name} sets nothing; did you mean {meant}?");
        }
    }
}

/// The variable that was probably meant by `unknown`.
fn meant_by(unknown: &str) -> Option<&'static str> {
    let known = VARIABLES.iter().map(|(name, _)| *name).chain(OTHER_VARIABLES);
    known.into_iter().find(|known| is_one_slip_apart(unknown, known))
}

/// Whether two words differ in one letter, or in the order of two.
fn is_one_slip_apart(one: &str, other: &str) -> bool {
    let same = one.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
    let (one, other) = (&one.as_bytes()[same..], &other.as_bytes()[same..]);
    let same = one.iter().rev().zip(other.iter().rev()).take_while(|(a, b)| a == b).count();
    match (&one[..one.len() - same], &other[..other.len() - same]) {
        ([a, b], [c, d]) => a == d && b == c,
        (one, other) => one.len().max(other.len()) == 1,
    }
}

/// Says what to write instead of a text that is not an address to listen on.
fn check_listen(text: &str) -> Result<(), String> {
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
    match port {
        Some(Ok(_)) => Ok(()),
        Some(Err(_)) | None => Err("write an address like 127.0.0.1:9010 or [::1]:9010".to_owned()),
    }
}

fn number(text: &str, max: u64) -> Result<u64, String> {
    let number = text.trim().parse().ok().filter(|number| *number <= max);
    number.ok_or_else(|| format!("write a whole number from 0 to {max}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> NodeBuilder {
        let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        NodeBuilder::new("n".to_owned()).listen("127.0.0.1:7").zone("here").with_variables(variables)
    }

    #[test]
    fn m7_variables_replace_what_was_set_before() {
        let node = read(&[]);
        assert_eq!((&*node.listen, node.advert.zone.as_deref()), ("127.0.0.1:7", Some("here")));
        let node = read(&[
            ("NODE_LISTEN", "[::1]:0"),
            ("NODE_DISTRIBUTOR", "registry.example:9000"),
            ("NODE_ADMIN", "127.0.0.1:9011"),
            ("NODE_ADVERTISE", "10.0.0.7:9010"),
            ("NODE_ZONE", "b"),
            ("NODE_WEIGHT", "50"),
            ("NODE_CACHE", "/tmp/x"),
            ("NODE_MAX_BUFFER_BYTES", "1000000"),
            ("NODE_ENV", "production"),
        ]);
        let seen = (&*node.listen, &*node.distributor, node.advertise.as_deref(), node.advert.zone.as_deref());
        assert_eq!(seen, ("[::1]:0", "registry.example:9000", Some("10.0.0.7:9010"), Some("b")));
        assert_eq!(node.admin.as_deref(), Some("127.0.0.1:9011"));
        let path = node.cache.as_ref().unwrap().to_str();
        assert_eq!((node.advert.weight, path, node.max_buffer_bytes), (50, Some("/tmp/x"), 1_000_000));
        assert!(node.wrong_variables.is_empty() && node.misspelt_variables.is_empty());
        assert_eq!(node.listen("127.0.0.1:8").listen, "127.0.0.1:8", "what follows wins");
    }

    #[test]
    fn m7_a_wrong_value_is_named_with_what_is_allowed() {
        #[track_caller]
        fn check(name: &str, value: &str, expected: &str) {
            let seen = read(&[(name, value)]).wrong_variables;
            assert_eq!(seen, [format!("{name}={value}: {expected}")]);
        }
        check("NODE_LISTEN", "9010", "write an address like 127.0.0.1:9010 or [::1]:9010");
        check("NODE_LISTEN", "127.0.0.1:x", "write an address like 127.0.0.1:9010 or [::1]:9010");
        check("NODE_DISTRIBUTOR", "nowhere", &"nowhere".parse::<HostPort>().unwrap_err().to_string());
        check("NODE_ADVERTISE", "h:0", "the port must be a number from 1 to 65535");
        check("NODE_ZONE", "", "write a name of 1 to 128 bytes");
        check("NODE_WEIGHT", "1001", "write a whole number from 0 to 1000");
        check("NODE_WEIGHT", "heavy", "write a whole number from 0 to 1000");
        check("NODE_CACHE", "", "write the path of a file");
        check("NODE_MAX_BUFFER_BYTES", "-1", &format!("write a whole number from 0 to {}", usize::MAX));
        assert_eq!(read(&[("NODE_WEIGHT", "x"), ("NODE_ZONE", "")]).wrong_variables.len(), 2, "all at once");
    }

    #[test]
    fn m7_a_typing_error_in_a_name_is_noticed() {
        #[track_caller]
        fn check(name: &str, expected: Option<&str>) {
            assert_eq!(meant_by(name), expected, "{name}");
        }
        check("NODE_LISTN", Some("NODE_LISTEN"));
        check("NODE_ZONES", Some("NODE_ZONE"));
        check("NODE_WIEGHT", Some("NODE_WEIGHT"));
        check("NODE_LOG_LEVEI", Some("NODE_LOG_LEVEL"));
        for other in ["NODE_ENV", "NODE_OPTIONS", "NODE_PATH", "NODE_NAME", "NODE_VERSION", "NODE_"] {
            check(other, None);
        }
    }
}
