//! The request that opens a WebSocket (RFC 6455, 4.2), and the response that accepts it. Pure.

use http::StatusCode;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::message::body::Framing;
use crate::message::fields::Fields;
use crate::message::forwarded::ForwardedInfo;
use crate::message::head::RequestHead;
use crate::message::problem::Problem;
use crate::message::problem_kind::ProblemKind;
use crate::message::response_head::ResponseHead;
use crate::route::cors::Cors;

/// The one version that is spoken.
const VERSION: &[u8] = b"13";
/// The characters of a key: 16 bytes in base64.
const KEY_CHARS: usize = 24;

/// Reads a request whose head asks for a WebSocket. Returns the head that accepts it. Pages of
/// other hosts may open it if `cors` names them.
///
/// # Errors
/// 400 for another version and a key that is not one, and 403 for a script of another site's page:
/// browsers send cookies with it, and do not ask before.
pub(super) fn accept(head: &RequestHead, origin: &ForwardedInfo, cors: Option<&Cors>) -> Result<ResponseHead, Problem> {
    let fields = head.fields();
    if fields.get("sec-websocket-version") != Some(VERSION) {
        let detail = "this gateway speaks version 13 of WebSocket (RFC 6455): send 'Sec-WebSocket-Version: 13'";
        return Err(Problem::new(StatusCode::BAD_REQUEST, ProblemKind::WEBSOCKET, detail));
    }
    let key = fields.get("sec-websocket-key").filter(|key| is_key(key));
    let Some(key) = key else {
        let detail = "'Sec-WebSocket-Key' must be 16 bytes in base64 (RFC 6455, 4.2.1)";
        return Err(Problem::new(StatusCode::BAD_REQUEST, ProblemKind::WEBSOCKET, detail));
    };
    let page = fields.get("origin").and_then(|page| std::str::from_utf8(page).ok());
    let host = origin.host.as_deref().or_else(|| head.host());
    if let Some(page) = page
        && !host.is_some_and(|host| is_of_host(page, host))
        && !cors.is_some_and(|cors| cors.names(page))
    {
        let detail = "pages of this origin may not open the WebSocket: the route's `cors` does not name it";
        return Err(Problem::new(StatusCode::FORBIDDEN, ProblemKind::FOREIGN_ORIGIN, detail));
    }
    Ok(ResponseHead {
        status: StatusCode::SWITCHING_PROTOCOLS,
        fields: Fields::from_pairs(&[("sec-websocket-accept", &derive_accept_key(key))]),
        framing: Framing::Empty,
        keep_alive: true,
        keep_for: None,
    })
}

fn is_key(key: &[u8]) -> bool {
    let (text, padding) = key.split_at(key.len().min(KEY_CHARS - 2));
    padding == b"==" && text.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
}

/// Whether a page (`https://shop.example:8443`) is of the host that the request names. Default
/// ports may be left out on either side.
fn is_of_host(page: &str, host: &str) -> bool {
    let Some((scheme, authority)) = page.split_once("://") else { return false };
    let default_port = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
    let bare = |authority: &str| authority.strip_suffix(default_port).unwrap_or(authority).to_ascii_lowercase();
    bare(authority) == bare(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_sixteen_bytes_in_base64() {
        for (key, expected) in [
            ("dGhlIHNhbXBsZSBub25jZQ==", true),
            ("////++++AAAAaaaa0000zz==", true),
            ("", false),
            ("==", false),
            ("dGhlIHNhbXBsZSBub25jZQ", false),
            ("dGhlIHNhbXBsZSBub25jZQ==A", false),
            ("dGhlIHNhbXBsZSBub25j ZQ==", false),
            ("dGhlIHNhbXBsZSBub25jZQ==\r\n", false),
        ] {
            assert_eq!(is_key(key.as_bytes()), expected, "{key}");
        }
    }

    #[test]
    fn a_page_is_of_the_host_that_it_was_loaded_from() {
        for (page, host, expected) in [
            ("http://shop.example", "shop.example", true),
            ("https://Shop.example", "shop.EXAMPLE:443", true),
            ("https://shop.example:443", "shop.example", true),
            ("http://127.0.0.1:8000", "127.0.0.1:8000", true),
            ("http://[::1]:8000", "[::1]:8000", true),
            ("http://shop.example", "shop.example:8000", false),
            ("https://shop.example", "shop.example:80", false),
            ("https://evil.example", "shop.example", false),
            ("https://shop.example.evil.example", "shop.example", false),
            ("null", "shop.example", false),
            ("", "shop.example", false),
        ] {
            assert_eq!(is_of_host(page, host), expected, "{page} {host}");
        }
    }
}
