//! The cookie that keeps a client with a server: it names the server without saying where it is, and nobody else can make one.

use std::fmt::Write;
use std::net::SocketAddr;

use node_sdk::balance::affinity;
use ring::hmac;

/// The cookie's name.
const NAME: &str = "gateway_server";

/// Signs cookies.
#[derive(Debug)]
pub(crate) struct Cookies {
    key: hmac::Key,
}

impl Cookies {
    /// Gateways with the same secret know each other's cookies.
    pub(crate) fn new(secret: &str) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()) }
    }

    /// What a server is called in cookies.
    pub(crate) fn id(address: SocketAddr) -> u64 {
        affinity("cookie", address)
    }

    /// The server that a `Cookie` field names, if this is one of our cookies.
    pub(crate) fn read(&self, field: &[u8]) -> Option<u64> {
        let pairs = field.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let mut ours = pairs.filter_map(|pair| pair.strip_prefix(NAME.as_bytes())?.strip_prefix(b"="));
        let (id, tag) = std::str::from_utf8(ours.next()?).ok()?.split_once('.')?;
        let id = u64::from_str_radix(id, 16).ok().filter(|_| id.len() == 16)?;
        let hex = |at: usize| u8::from_str_radix(tag.get(at..at + 2)?, 16).ok();
        let tag: Vec<u8> = (0..tag.len()).step_by(2).map(hex).collect::<Option<_>>()?;
        // In constant time: how much of a guess was right must not be told.
        hmac::verify(&self.key, &id.to_be_bytes(), &tag).ok().map(|()| id)
    }

    /// The value of `Set-Cookie`. `is_tls`: it is to be sent over TLS only.
    pub(crate) fn set(&self, id: u64, is_tls: bool) -> String {
        let secure = if is_tls { "; Secure" } else { "" };
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
    fn only_our_own_cookies_are_believed() {
        let cookies = Cookies::new("secret");
        let set = cookies.set(7, true);
        let (pair, attributes) = set.split_once("; ").unwrap();
        assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Lax; Secure");
        assert_eq!(cookies.read(pair.as_bytes()), Some(7));
        assert_eq!(cookies.read(format!("a=b; {pair};c").as_bytes()), Some(7));
        assert_eq!(Cookies::new("secret").read(pair.as_bytes()), Some(7), "another gateway with the same secret");
        assert_eq!(Cookies::new("other").read(pair.as_bytes()), None);
        for broken in [
            pair.replace("=0", "=1"),
            pair[..pair.len() - 1].to_owned(),
            format!("{pair}0"),
            pair.replace('.', ""),
            "gateway_server=7.".to_owned(),
            "a=b".to_owned(),
            String::new(),
        ] {
            assert_eq!(cookies.read(broken.as_bytes()), None, "{broken}");
        }
        assert!(!cookies.set(7, false).contains("Secure"));
    }
}
