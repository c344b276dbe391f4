//! A server that listens at the address of a Distributor and speaks another protocol.

use std::time::Duration;

use protocol::{Packet, REGISTRY_URI};

/// The first pause before a process that is not a Distributor is asked again, and the longest. It
/// does not become one by being asked, and its operators may count each attempt as an attack.
const FIRST_PAUSE: Duration = Duration::from_secs(3);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// The first bytes of other protocols' answers.
const SIGNS: [(&[u8], &str); 9] = [
    (b"HTTP/", "it speaks HTTP"),
    (b"<", "it speaks HTTP"),
    (b"\x15\x03", "it speaks TLS"),
    (b"SSH-", "it speaks SSH"),
    (b"-ERR", "it speaks the protocol of Redis"),
    (b"-NOAUTH", "it speaks the protocol of Redis"),
    (b"220", "it speaks SMTP or FTP"),
    (b"AMQP", "it speaks AMQP"),
    (b"\0\0", "it speaks HTTP/2 or another binary protocol"),
];

/// The protocol that the first bytes of an answer show; `None` while they may be a Distributor's.
pub(super) fn by_first_bytes(bytes: &[u8]) -> Option<&'static str> {
    let bytes = bytes.trim_ascii_start();
    // A packet begins with a brace; an empty one is only the delimiter.
    if bytes.first().is_none_or(|first| matches!(first, b'{' | 0xc2)) {
        return None;
    }
    let sign = SIGNS.iter().find(|(sign, _)| sign.starts_with(bytes) || bytes.starts_with(sign));
    match sign {
        Some((sign, _)) if bytes.len() < sign.len() => None,
        Some((_, what)) => Some(what),
        None => Some("it sends bytes that are not packets"),
    }
}

/// The kind of server that the first packet shows: a service answers a registration as a call that
/// it does not know.
pub(super) fn by_first_packet(packet: &Packet<'_>) -> Option<&'static str> {
    let is_registry = packet.uri() == REGISTRY_URI || packet.uri().starts_with('$');
    (!is_registry && packet.key.is_some()).then_some("it answers like a service")
}

/// The pauses between attempts at a process that is not a Distributor.
#[derive(Debug, Default)]
pub(super) struct ForeignServerBackoff {
    last: Option<Duration>,
}

impl ForeignServerBackoff {
    /// The pause after one more such answer; `chance` is from 0 to 1.
    pub(super) fn pause(&mut self, chance: f64) -> Duration {
        let next = self.last.map_or(FIRST_PAUSE, |last| (last * 2).min(MAX_PAUSE));
        self.last = Some(next);
        next.mul_f64(0.9 + chance / 5.0)
    }

    /// Forgets the foreign server, because a Distributor has answered.
    pub(super) fn reset(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: Option<&str>) {
        assert_eq!(by_first_bytes(bytes), expected);
    }

    #[test]
    fn c11_other_servers_are_known_by_their_first_bytes() {
        for may_be in [&b""[..], b"\r\n", b"{", b"{\"uri\"", "\u{b6}".as_bytes(), b" {", b"H", b"HTTP", b"-"] {
            check(may_be, None);
        }
        check(b"HTTP/1.1 400 Bad Request\r\n", Some("it speaks HTTP"));
        check(b"<html>", Some("it speaks HTTP"));
        check(b"\x15\x03\x01\0\x02\x02\x16", Some("it speaks TLS"));
        check(b"SSH-2.0-OpenSSH_9.2\r\n", Some("it speaks SSH"));
        check(b"-ERR unknown command\r\n", Some("it speaks the protocol of Redis"));
        check(b"220 mail ESMTP\r\n", Some("it speaks SMTP or FTP"));
        check(b"hello", Some("it sends bytes that are not packets"));
        check(b"[]", Some("it sends bytes that are not packets"));
    }

    #[test]
    fn c11_a_service_is_known_by_its_first_answer() {
        for (packet, expected) in [
            (r#"{"uri":"/distributes","method":"GET","key":0,"params":[]}"#, false),
            (r#"{"uri":"$ping","$":{}}"#, false),
            (r#"{"key":0,"$":{"s":404,"r":"no_route"}}"#, true),
            (r#"{"key":0,"errorcode":404,"errormessage":"x"}"#, true),
            (r#"{"later":1}"#, false),
        ] {
            let packet = Packet::parse(packet.as_bytes()).unwrap();
            assert_eq!(by_first_packet(&packet).is_some(), expected, "{}", packet.uri());
        }
    }

    #[test]
    fn c11_a_foreign_server_is_asked_less_and_less_often() {
        let mut backoff = ForeignServerBackoff::default();
        let pauses = [(); 6].map(|()| backoff.pause(0.5).as_secs());
        assert_eq!(pauses, [3, 6, 12, 24, 30, 30]);
        backoff.reset();
        assert_eq!(backoff.pause(0.5), FIRST_PAUSE);
    }
}
