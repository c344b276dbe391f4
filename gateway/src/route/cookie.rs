//! The cookie that keeps a client with a server: it names the server without revealing its address,
//! and cannot be forged.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use foldhash::HashMap;
use ring::hmac;

/// The cookie's name.
const NAME: &str = "gateway_server";
/// Bytes of a secret that cannot be guessed.
pub(crate) const MIN_SECRET_BYTES: usize = 16;
/// Most cookies of one field that are checked.
const MAX_TRIED: usize = 8;

/// Servers whose names are remembered. The names of further servers are made again each time.
const MAX_REMEMBERED: usize = 10_000;

/// Signs cookies.
#[derive(Debug)]
pub(crate) struct CookieSigner {
    key: hmac::Key,
    /// The names of servers. Each worker has its own, so it is never contended.
    ids: Mutex<HashMap<SocketAddr, u64>>,
}

impl CookieSigner {
    /// Gateways with the same secret know each other's cookies.
    pub(crate) fn new(secret: &str) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), ids: Mutex::default() }
    }

    /// The name of a server in cookies. It does not reveal the address without the secret.
    pub(crate) fn id(&self, address: SocketAddr) -> u64 {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        if ids.len() >= MAX_REMEMBERED {
            ids.clear();
        }
        *ids.entry(address).or_insert_with(|| {
            let name = hmac::sign(&self.key, format!("server {address}").as_bytes());
            name.as_ref().iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte))
        })
    }

    /// The servers that a `Cookie` field names, in those of our cookies that have not been changed.
    pub(crate) fn read(&self, field: &[u8]) -> impl Iterator<Item = u64> {
        let pairs = field.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let ours = pairs.filter_map(|pair| pair.strip_prefix(NAME.as_bytes())?.strip_prefix(b"="));
        // A browser has one for each path and domain. More of them are an attack.
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

    /// The value of `Set-Cookie` for a server. `is_tls`: it is to be sent over TLS only.
    pub(crate) fn set_cookie(&self, server: SocketAddr, is_tls: bool) -> String {
        let (id, secure) = (self.id(server), if is_tls { "; Secure" } else { "" });
        format!("{NAME}={id:016x}.{}; Path=/; HttpOnly; SameSite=Lax{secure}", self.tag(id))
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
        let server: SocketAddr = "192.0.2.1:7001".parse().unwrap();
        let id = cookies.id(server);
        let set = cookies.set_cookie(server, true);
        let (pair, attributes) = set.split_once("; ").unwrap();
        assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Lax; Secure");
        let check = |cookies: &CookieSigner, field: &str, expected: &[u64]| {
            assert_eq!(cookies.read(field.as_bytes()).collect::<Vec<_>>(), expected, "{field}");
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
        assert!(!cookies.set_cookie(server, false).contains("Secure"));
        // Where a server is tells nobody what it is called.
        assert_ne!(CookieSigner::new("other").id(server), id);
        assert_ne!(id, node_sdk::gateway::affinity::score("cookie", server));
    }
}
