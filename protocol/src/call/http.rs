//! HTTP in the calls of gateways: the request of a client (`$.q` of a call), and the header fields
//! of its response (`$.h` of an answer).

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::call::socket::SocketCall;
use crate::json::{Text, is_object, put_text, read_member};

/// The request of a client, for which a gateway calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientRequest<'a> {
    /// `a`: the address of the client.
    pub address: Cow<'a, str>,
    /// `o`: the host that the client names, with a port if it names one; empty if none.
    pub host: Cow<'a, str>,
    /// Whether the client speaks TLS, with the gateway or with a proxy in front of it (`s`).
    pub is_https: bool,
    /// `id`: the id of the request.
    pub id: Cow<'a, str>,
    /// `m`: the method, which may be another than that of the call, such as `HEAD`.
    pub method: Cow<'a, str>,
    /// `t`: the path and the query as the client has sent them.
    pub target: Cow<'a, str>,
    /// `h`: the header fields that the route reads, in their order.
    pub headers: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// `w`: the held socket that the call is about, if it is about one.
    pub socket: Option<SocketCall<'a>>,
}

impl<'a> ClientRequest<'a> {
    /// Reads the member `q`. A member of a wrong type counts as absent; `None` if it is not an
    /// object.
    pub fn parse(text: &'a str) -> Option<Self> {
        #[derive(Deserialize)]
        struct RawRequest<'a> {
            #[serde(borrow, default)]
            a: Option<&'a RawValue>,
            #[serde(borrow, default)]
            o: Option<&'a RawValue>,
            #[serde(borrow, default)]
            s: Option<&'a RawValue>,
            #[serde(borrow, default)]
            id: Option<&'a RawValue>,
            #[serde(borrow, default)]
            m: Option<&'a RawValue>,
            #[serde(borrow, default)]
            t: Option<&'a RawValue>,
            #[serde(borrow, default)]
            h: Option<&'a RawValue>,
            #[serde(borrow, default)]
            w: Option<&'a RawValue>,
        }
        let text_of = |member| read_member(member).map_or(Cow::Borrowed(""), |Text(text)| text);
        let raw: RawRequest<'a> = serde_json::from_str(text).ok().filter(|_| is_object(text))?;
        Some(Self {
            address: text_of(raw.a),
            host: text_of(raw.o),
            is_https: read_member(raw.s).unwrap_or(false),
            id: text_of(raw.id),
            method: text_of(raw.m),
            target: text_of(raw.t),
            headers: raw.h.and_then(|list| read_pairs(list.get().as_bytes())).unwrap_or_default(),
            socket: raw.w.and_then(SocketCall::parse),
        })
    }

    /// Its JSON text: see [`write`](Self::write).
    pub fn to_json(&self) -> String {
        /// Most requests of which a route reads a field or two have less.
        const USUAL_BYTES: usize = 256;
        let mut out = BytesMut::with_capacity(USUAL_BYTES);
        self.write(&mut out);
        String::from_utf8(out.into()).expect("only text was written to it")
    }

    /// A copy that borrows nothing.
    pub fn to_static(&self) -> ClientRequest<'static> {
        let owned = |text: &Cow<'_, str>| Cow::Owned(text.clone().into_owned());
        ClientRequest {
            address: owned(&self.address),
            host: owned(&self.host),
            is_https: self.is_https,
            id: owned(&self.id),
            method: owned(&self.method),
            target: owned(&self.target),
            headers: self.headers.iter().map(|(name, value)| (owned(name), owned(value))).collect(),
            socket: self.socket.as_ref().map(SocketCall::to_static),
        }
    }

    /// Appends it as JSON, without the members that say nothing.
    pub fn write(&self, out: &mut BytesMut) {
        let Self { address, host, is_https, id, method, target, headers, socket } = self;
        out.put_slice(br#"{"a":"#);
        put_text(out, address);
        for (name, text) in [(&br#","o":"#[..], host), (br#","id":"#, id), (br#","m":"#, method), (br#","t":"#, target)]
        {
            if !text.is_empty() {
                out.put_slice(name);
                put_text(out, text);
            }
        }
        if *is_https {
            out.put_slice(br#","s":true"#);
        }
        if !headers.is_empty() {
            out.put_slice(br#","h":"#);
            put_pairs(out, headers.iter().map(|(name, value)| (&**name, &**value)));
        }
        if let Some(socket) = socket {
            out.put_slice(br#","w":"#);
            socket.write(out);
        }
        out.put_u8(b'}');
    }
}

/// The header fields of a response, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseHeaders(Vec<(Cow<'static, str>, Cow<'static, str>)>);

impl ResponseHeaders {
    /// Maximum number of fields that a gateway takes over from one answer. Clients take a hundred.
    pub const MAX_FIELDS: usize = 64;
    /// Maximum bytes of their names and values together: browsers and proxies take little more.
    pub const MAX_BYTES: usize = 32 * 1024;

    /// No fields.
    pub const NONE: Self = Self(Vec::new());

    /// Appends a field. One of the same name stays, as of `set-cookie`.
    pub fn append(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Cow<'static, str>>) {
        self.0.push((name.into(), value.into()));
    }

    /// Sets a field in place of those of the same name, in any case of letters.
    pub fn set(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Cow<'static, str>>) {
        let name = name.into();
        self.0.retain(|(other, _)| !other.eq_ignore_ascii_case(&name));
        self.append(name, value);
    }

    /// Names and values, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Whether there is a field of this name, in any case of letters.
    pub fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|(other, _)| other.eq_ignore_ascii_case(name))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends them as the member `h`, with the comma or nothing `before` it; nothing if there are
    /// none.
    pub(super) fn put_member(&self, out: &mut BytesMut, before: &str) {
        if !self.is_empty() {
            out.put_slice(before.as_bytes());
            out.put_slice(br#""h":"#);
            put_pairs(out, self.iter());
        }
    }
}

impl IntoIterator for ResponseHeaders {
    type Item = (Cow<'static, str>, Cow<'static, str>);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// Reads a list of pairs of texts, such as the fields of a response; `None` if it is anything else.
pub fn read_pairs(text: &[u8]) -> Option<Vec<(Cow<'_, str>, Cow<'_, str>)>> {
    let pairs: Vec<(Text<'_>, Text<'_>)> = serde_json::from_slice(text).ok()?;
    Some(pairs.into_iter().map(|(Text(name), Text(value))| (name, value)).collect())
}

fn put_pairs<'p>(out: &mut BytesMut, pairs: impl Iterator<Item = (&'p str, &'p str)>) {
    for (at, (name, value)) in pairs.enumerate() {
        out.put_slice(if at == 0 { b"[[" } else { b",[" });
        put_text(out, name);
        out.put_u8(b',');
        put_text(out, value);
        out.put_u8(b']');
    }
    out.put_u8(b']');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_read_back() {
        let usual = || ClientRequest { address: "192.0.2.1".into(), method: "GET".into(), ..ClientRequest::default() };
        for request in [
            usual(),
            ClientRequest {
                host: "a:80".into(),
                is_https: true,
                id: "7".into(),
                target: "/x?q=\"¶\"".into(),
                ..usual()
            },
            ClientRequest {
                headers: vec![("cookie".into(), "a=1".into()), ("cookie".into(), "b\\".into())],
                ..usual()
            },
            ClientRequest { socket: Some(SocketCall { session: "a.1".into(), ..SocketCall::default() }), ..usual() },
        ] {
            let mut out = BytesMut::new();
            request.write(&mut out);
            assert_eq!(ClientRequest::parse(std::str::from_utf8(&out).unwrap()).as_ref(), Some(&request), "{out:?}");
        }
    }

    #[test]
    fn members_of_wrong_types_count_as_absent() {
        let check = |text: &str, expected: Option<ClientRequest<'_>>| {
            assert_eq!(ClientRequest::parse(text), expected, "{text}");
        };
        check("{}", Some(ClientRequest::default()));
        check(r#"{"a":7,"o":[],"s":"true","m":{},"h":{},"w":[],"x":1}"#, Some(ClientRequest::default()));
        let headers = |text: &str| ClientRequest::parse(&format!(r#"{{"h":{text}}}"#)).unwrap().headers.len();
        assert_eq!((headers("[]"), headers(r#"[["a","b"],["a",""]]"#)), (0, 2));
        for bad in [r#"[["a"]]"#, r#"[["a","b","c"]]"#, r#"[["a",7]]"#, r#"{"a":"b"}"#, r#"["a","b"]"#] {
            assert_eq!(headers(bad), 0, "{bad}");
        }
        check("[]", None);
        check("null", None);
    }

    #[test]
    fn a_field_is_set_in_place_of_others_or_appended() {
        let mut headers = ResponseHeaders::default();
        headers.append("set-cookie", "a=1");
        headers.append("Set-Cookie", "b=2");
        headers.set("location", "/a");
        headers.set("Location", "/b");
        let mut out = BytesMut::new();
        headers.put_member(&mut out, ",");
        assert_eq!(&out[..], br#","h":[["set-cookie","a=1"],["Set-Cookie","b=2"],["Location","/b"]]"#);
        assert_eq!(read_pairs(&out[5..]).unwrap().len(), 3);
        assert!(headers.contains("SET-COOKIE") && !headers.contains("etag"));
    }
}
