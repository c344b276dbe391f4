//! The envelope `{uri, method, key, params}` around every message.

use serde::Deserialize;
use serde::de::Error as _;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::Key;
use crate::json::{Text, is_object};

/// The version of the protocol that a peer speaks, as far as its packets have shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// The peer has not sent `$`. It is sent nothing that version 1 did not send.
    V1,
    /// The peer has sent `$`.
    V2,
}

/// A packet, borrowed from its frame. Unknown members are ignored. A duplicate member is an error.
///
/// `params`, `results` and `$` stay raw JSON. They are parsed once, where their type is known.
#[derive(Debug, Deserialize)]
pub struct Packet<'a> {
    /// Path of the resource, such as `/goods`. Responses have none.
    #[serde(borrow, default)]
    pub uri: Option<Text<'a>>,
    /// Method in HTTP's words. Responses have none.
    #[serde(borrow, default)]
    pub method: Option<Text<'a>>,
    /// The key that a request and its response share.
    #[serde(default)]
    pub key: Option<Key>,
    /// Arguments of a call, or the result in a version 2 response.
    #[serde(borrow, default)]
    pub params: Option<&'a RawValue>,
    /// The reserved member of version 2.
    #[serde(borrow, default, rename = "$")]
    pub meta: Option<&'a RawValue>,
    /// Version 1 responses: 0 means success.
    #[serde(borrow, default)]
    pub errorcode: Option<&'a RawValue>,
    /// The code as some services spell its name.
    #[serde(borrow, default, rename = "errorCode")]
    pub error_code: Option<&'a RawValue>,
    /// Version 1 responses: text for people.
    #[serde(borrow, default)]
    pub errormessage: Option<&'a RawValue>,
    /// The message as some services spell its name.
    #[serde(borrow, default, rename = "errorMessage")]
    pub error_message: Option<&'a RawValue>,
    /// Version 1 responses: the data, if there is any.
    #[serde(borrow, default)]
    pub results: Option<&'a RawValue>,
}

/// Why a frame is not a packet. The frame is lost; the next one can be read.
#[derive(Debug, Error)]
pub enum PacketError {
    /// The packet is not UTF-8.
    #[error("not UTF-8 from byte {at}")]
    Encoding {
        /// Offset in the frame of the first byte that is not UTF-8.
        at: usize,
    },
    /// The packet is not JSON, not an object, or has a member of the wrong type.
    #[error("bad packet at byte {at}")]
    Json {
        /// Offset in the frame where the parser stopped.
        at: usize,
        /// The error of the parser.
        #[source]
        source: serde_json::Error,
    },
}

impl<'a> Packet<'a> {
    /// Reads one frame. White space may surround the packet, and nothing else may.
    ///
    /// # Errors
    /// [`PacketError`] has the offset of the fault.
    pub fn parse(frame: &'a [u8]) -> Result<Self, PacketError> {
        let text = std::str::from_utf8(frame).map_err(|error| PacketError::Encoding { at: error.valid_up_to() })?;
        serde_json::from_str(text)
            .and_then(|packet| {
                if is_object(text) {
                    Ok(packet)
                } else {
                    Err(serde_json::Error::custom("a packet must be a JSON object"))
                }
            })
            .map_err(|source| PacketError::Json { at: offset(text, &source), source })
    }

    /// Path of the resource, empty in a response.
    pub fn uri(&self) -> &str {
        self.uri.as_ref().map_or("", |text| &text.0)
    }

    /// Method, empty in a response.
    pub fn method(&self) -> &str {
        self.method.as_ref().map_or("", |text| &text.0)
    }

    /// The version that this packet shows its sender to speak.
    pub fn version(&self) -> Version {
        if self.meta.is_some() { Version::V2 } else { Version::V1 }
    }
}

/// Converts the position of an error into an offset. serde_json counts lines from 1, and bytes of a
/// line from 1, or 0 at the start of the line.
fn offset(text: &str, error: &serde_json::Error) -> usize {
    let lines_before = error.line().saturating_sub(1);
    let line_start: usize = text.split_inclusive('\n').take(lines_before).map(str::len).sum();
    (line_start + error.column().saturating_sub(1)).min(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// uri, method, key and params of a packet.
    type ParsedPacket<'a> = (&'a str, &'a str, Option<u64>, Option<&'a str>);

    #[track_caller]
    fn check(frame: &[u8], expected: Result<ParsedPacket<'_>, usize>) {
        let packet = Packet::parse(frame);
        let seen = packet.as_ref().map(|packet| {
            let key = packet.key.as_ref().and_then(Key::number);
            (packet.uri(), packet.method(), key, packet.params.map(RawValue::get))
        });
        match (seen, expected) {
            (Ok(seen), Ok(expected)) => assert_eq!(seen, expected),
            (Err(PacketError::Json { at, .. } | PacketError::Encoding { at }), Err(expected)) => {
                assert_eq!(*at, expected);
            }
            (seen, expected) => panic!("{seen:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn packets_of_both_versions() {
        check(
            br#"{"uri":"/g","method":"GET","key":7,"params":{"a": 1}}"#,
            Ok(("/g", "GET", Some(7), Some(r#"{"a": 1}"#))),
        );
        check(br#" {"method":"GET","uri":"/g","x":[{}],"key":"7"} "#, Ok(("/g", "GET", Some(7), None)));
        check(br#"{"uri":"\/g\u00b6"}"#, Ok(("/g¶", "", None, None)));
        check(br#"{"key":null,"params":null}"#, Ok(("", "", None, None)));
        check(b"{}", Ok(("", "", None, None)));
    }

    #[test]
    fn broken_packets_name_the_byte() {
        check(b"{\"uri\":\"\xff\"}", Err(8));
        check(b"{\"uri\":\"\xc0\xaf\"}", Err(8));
        check(br#"{"uri":7}"#, Err(7));
        check(br#"{"uri":"/a","uri":"/b"}"#, Err(16));
        check(b"{}{}", Err(2));
        check(b"{\n\"uri\":\n}", Err(9));
        check(br#"{"key":[]}"#, Err(9));
        assert!(Packet::parse(b"null").is_err() && Packet::parse(b"[]").is_err() && Packet::parse(b"").is_err());
    }
}
