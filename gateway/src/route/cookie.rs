//! The cookie that keeps a client with a server: it names the server without revealing its address,
//! and cannot be forged.

use std::fmt::{self, Write};
use std::sync::{Mutex, PoisonError};

use foldhash::HashMap;
use net::ServerAddress;
use ring::hmac;

/// Bytes of a cookie's name.
pub(crate) const MAX_NAME_BYTES: usize = 64;
/// Least bytes of a secret that cannot be guessed.
pub(crate) const MIN_SECRET_BYTES: usize = 16;
/// Maximum number of cookies of one field that are checked.
const MAX_TRIED: usize = 8;

/// Servers whose names are remembered. The names of further servers are made again each time.
const MAX_REMEMBERED: usize = 10_000;

/// The name of a cookie: a word, and for all prefixes but `/` a number that is made of the prefix.
/// So the cookies of two prefixes are two cookies, whatever paths a proxy in front shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CookieName<'a> {
    word: &'a str,
    tag: Option<u32>,
}

impl<'a> CookieName<'a> {
    pub(crate) const DEFAULT: &'static str = "gateway_server";

    /// The name of the cookie of a prefix in normal form; `` is the prefix of everything.
    pub(crate) fn new(word: &'a str, prefix: &str) -> Self {
        // FNV-1a: it has to tell the prefixes of one file from each other, and costs nothing.
        let hash = |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        let tag = (!prefix.is_empty()).then(|| prefix.bytes().fold(0x811c_9dc5, hash));
        Self { word, tag }
    }

    /// The value of the cookie in `pair`, if it is this one's.
    fn value_in(self, pair: &[u8]) -> Option<&[u8]> {
        let (name, value) = pair.split_at_checked(memchr::memchr(b'=', pair)?)?;
        let rest = name.strip_prefix(self.word.as_bytes())?;
        let is_ours = match self.tag {
            None => rest.is_empty(),
            Some(tag) => {
                let text = std::str::from_utf8(rest.strip_prefix(b"_")?).ok()?;
                text.len() == 8 && u32::from_str_radix(text, 16) == Ok(tag)
            }
        };
        is_ours.then(|| &value[1..])
    }
}

impl fmt::Display for CookieName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word)?;
        self.tag.map_or(Ok(()), |tag| write!(f, "_{tag:08x}"))
    }
}

/// Signs cookies.
#[derive(Debug)]
pub(crate) struct CookieSigner {
    key: hmac::Key,
    /// The names of servers. Each worker has its own, so it is never contended.
    ids: Mutex<HashMap<ServerAddress, u64>>,
}

impl CookieSigner {
    /// Gateways with the same secret know each other's cookies.
    pub(crate) fn new(secret: &str) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), ids: Mutex::default() }
    }

    /// The name of a server in cookies. It does not reveal the address without the secret.
    pub(crate) fn id(&self, address: &ServerAddress) -> u64 {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = ids.get(address) {
            return *id;
        }
        if ids.len() >= MAX_REMEMBERED {
            ids.clear();
        }
        let name = hmac::sign(&self.key, format!("server {address}").as_bytes());
        let id = name.as_ref().iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte));
        ids.insert(address.clone(), id);
        id
    }

    /// The servers that a `Cookie` field names, in those of our cookies of this name that have not
    /// been changed.
    pub(crate) fn read(&self, name: CookieName<'_>, field: &[u8]) -> impl Iterator<Item = u64> {
        let pairs = field.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let ours = pairs.filter_map(move |pair| name.value_in(pair));
        // A browser has one for each path and domain. More are an attack.
        ours.take(MAX_TRIED).filter_map(|value| self.id_in(value))
    }

    fn id_in(&self, value: &[u8]) -> Option<u64> {
        let (id, tag) = std::str::from_utf8(value).ok()?.split_once('.')?;
        let id = u64::from_str_radix(id, 16).ok().filter(|_| id.len() == 16)?;
        let hex = |at: usize| u8::from_str_radix(tag.get(at..at + 2)?, 16).ok();
        let tag: Vec<u8> = (0..tag.len()).step_by(2).map(hex).collect::<Option<_>>()?;
        // In constant time: the time must not show how much of a guess was right.
        hmac::verify(&self.key, &id.to_be_bytes(), &tag).ok().map(|()| id)
    }

    /// The value of `Set-Cookie` for a server. With `is_tls`, the client must send it over TLS
    /// only.
    pub(crate) fn set_cookie(&self, name: CookieName<'_>, server: &ServerAddress, is_tls: bool) -> String {
        let (id, secure) = (self.id(server), if is_tls { "; Secure" } else { "" });
        format!("{name}={id:016x}.{}; Path=/; HttpOnly; SameSite=Lax{secure}", self.tag(id))
    }

    fn tag(&self, id: u64) -> String {
        let tag = hmac::sign(&self.key, &id.to_be_bytes());
        let mut text = String::with_capacity(2 * tag.as_ref().len());
        for byte in tag.as_ref() {
            let _ = write!(text, "{byte:02x}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_cookies_are_accepted() {
        let cookies = CookieSigner::new("secret");
        let server = ServerAddress::Tcp("192.0.2.1:7001".parse().unwrap());
        let server = &server;
        let id = cookies.id(server);
        let name = CookieName::new(CookieName::DEFAULT, "");
        let set = cookies.set_cookie(name, server, true);
        let (pair, attributes) = set.split_once("; ").unwrap();
        assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Lax; Secure");
        let check = |cookies: &CookieSigner, field: &str, expected: &[u64]| {
            assert_eq!(cookies.read(name, field.as_bytes()).collect::<Vec<_>>(), expected, "{field}");
        };
        check(&cookies, pair, &[id]);
        check(&cookies, &format!("a=b; {pair};c"), &[id]);
        check(&CookieSigner::new("secret"), pair, &[id]);
        check(&CookieSigner::new("other"), pair, &[]);
        for broken in [
            pair.replace('=', "=0"),
            pair[..pair.len() - 1].to_owned(),
            format!("{pair}0"),
            pair.replace('.', ""),
            "gateway_server=7.".to_owned(),
            "a=b".to_owned(),
            String::new(),
        ] {
            check(&cookies, &broken, &[]);
            // Our cookie counts, whatever stands before it.
            check(&cookies, &format!("{broken}; {pair}"), &[id]);
        }
        check(&cookies, &format!("{}{pair}", "gateway_server=x; ".repeat(MAX_TRIED)), &[]);
        assert!(!cookies.set_cookie(name, server, false).contains("Secure"));
        // The address of a server does not reveal its name.
        assert_ne!(CookieSigner::new("other").id(server), id);
        assert_ne!(id, node_sdk::gateway::affinity::score("cookie", server));
    }

    #[test]
    fn a5_each_prefix_has_a_cookie_of_its_own() {
        let (cookies, at) = (CookieSigner::new("secret"), |port| ServerAddress::Tcp(([192, 0, 2, 1], port).into()));
        let names =
            [("", 1), ("/api", 2), ("/api/v2", 3)].map(|(prefix, port)| (CookieName::new("s", prefix), at(port)));
        let pair = |(name, server): (CookieName<'_>, &ServerAddress)| {
            cookies.set_cookie(name, server, false).split(';').next().unwrap().to_owned()
        };
        let all = names.each_ref().map(|(name, server)| pair((*name, server))).join("; ");
        for (name, server) in &names {
            let seen: Vec<_> = cookies.read(*name, all.as_bytes()).collect();
            assert_eq!(seen, [cookies.id(server)], "{name} in {all}");
        }
        // Of several of one name, each is looked at.
        let [(name, one), (_, two), _] = &names;
        let both = format!("{}; {}", pair((*name, one)), pair((*name, two)));
        assert_eq!(cookies.read(*name, both.as_bytes()).collect::<Vec<_>>(), [cookies.id(one), cookies.id(two)]);
        let other = CookieName::new("other", "");
        assert_eq!(cookies.read(other, all.as_bytes()).count(), 0);
        assert_eq!(CookieName::new("s", "/api").to_string(), "s_0b81c40a");
    }
}
