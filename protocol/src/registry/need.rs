//! The question of a node with a partial view: who offers what it is about to use.

use bytes::{BufMut, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::json::to_json;
use crate::{Key, seal};

/// The uri of [`write_need`].
pub const NEED_URI: &str = "$need";
/// The uri of [`write_needed`].
pub const NEEDED_URI: &str = "$needed";

/// Maximum number of routes of one question. Looking all of them up takes a fraction of a
/// millisecond.
pub const MAX_NEED_ROUTES: usize = 64;
/// Longest route of a question in bytes: it fits into a packet that a Distributor reads, even if
/// each byte has to be escaped. A path may be longer than the url that it belongs to.
pub const MAX_NEED_BYTES: usize = 8 * 1024;

/// Asks who offers these routes, such as `GET/members/7` or `EVENT/orders.created`: at most
/// [`MAX_NEED_ROUTES`], each of at most [`MAX_NEED_BYTES`] bytes.
pub fn write_need<'a>(out: &mut BytesMut, key: u64, routes: impl Iterator<Item = &'a str>) {
    let start = out.len();
    let routes = to_json(&routes.collect::<Vec<_>>());
    let text = format!(r#"{{"uri":"{NEED_URI}","key":{key},"params":{{"routes":{routes}}},"$":{{}}}}"#);
    out.put_slice(text.as_bytes());
    seal(out, start);
}

/// Reads the routes of a question; `None` if it is none, or exceeds its limits.
pub fn read_need(params: Option<&RawValue>) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct RawNeed {
        routes: Vec<String>,
    }
    let RawNeed { routes } = serde_json::from_str(params?.get()).ok()?;
    let fits = (1..=MAX_NEED_ROUTES).contains(&routes.len())
        && routes.iter().all(|route| route.len() <= MAX_NEED_BYTES && route.contains('/'));
    fits.then_some(routes)
}

/// Answers a question: of each route the registered url that it belongs to, if a node offers it.
/// The nodes that offer these urls stand in a change before the answer.
pub fn write_needed(out: &mut BytesMut, key: &Key, needs: &[Option<String>]) {
    let start = out.len();
    let text = format!(r#"{{"uri":"{NEEDED_URI}","key":{key},"params":{{"needs":{}}},"$":{{}}}}"#, to_json(&needs));
    out.put_slice(text.as_bytes());
    seal(out, start);
}

/// Reads an answer, as [`write_needed`] has written it.
pub fn read_needed(params: Option<&RawValue>) -> Option<Vec<Option<String>>> {
    #[derive(Deserialize)]
    struct RawNeeded {
        needs: Vec<Option<String>>,
    }
    let RawNeeded { needs } = serde_json::from_str(params?.get()).ok()?;
    Some(needs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Packet;

    fn packet(out: &BytesMut) -> Packet<'_> {
        Packet::parse(&out[..out.len() - 2]).unwrap()
    }

    #[test]
    fn questions_and_answers_are_read_back() {
        let mut out = BytesMut::new();
        write_need(&mut out, 3, ["GET/members/7", "EVENT/a¶"].into_iter());
        assert_eq!(read_need(packet(&out).params).unwrap(), ["GET/members/7", "EVENT/a¶"]);
        assert_eq!((packet(&out).uri(), packet(&out).key), (NEED_URI, Some(Key::Number(3))));
        let mut out = BytesMut::new();
        let needs = [Some("GET/members/{id}".to_owned()), None];
        write_needed(&mut out, &Key::Number(3), &needs);
        assert_eq!(read_needed(packet(&out).params).unwrap(), needs);
        assert_eq!(packet(&out).uri(), NEEDED_URI);
    }

    #[test]
    fn a_question_has_limits() {
        let routes = |count: usize, bytes: usize| {
            let routes = vec![format!("GET/{}", "x".repeat(bytes - 4)); count];
            let mut out = BytesMut::new();
            write_need(&mut out, 1, routes.iter().map(String::as_str));
            read_need(packet(&out).params).is_some()
        };
        assert!(routes(1, 4) && routes(MAX_NEED_ROUTES, 100) && routes(1, MAX_NEED_BYTES));
        assert!(!routes(0, 4) && !routes(MAX_NEED_ROUTES + 1, 4) && !routes(1, MAX_NEED_BYTES + 1));
        let mut out = BytesMut::new();
        write_need(&mut out, u64::MAX, ["\u{1}".repeat(MAX_NEED_BYTES).as_str()].into_iter());
        assert!(out.len() < 64 * 1024, "it fits into a packet");
        for params in ["7", "[]", "{}", r#"{"routes":"GET/a"}"#, r#"{"routes":["GET"]}"#, r#"{"routes":[7]}"#] {
            assert_eq!(read_need(serde_json::from_str(params).ok()), None, "{params}");
        }
    }
}
