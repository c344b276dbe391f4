//! The meaning of a frame from a peer, without I/O.

use std::time::Instant;

use protocol::{
    HISTORY_URI, Key, NEED_URI, PONG_URI, Packet, PacketError, Pong, REGISTRY_URI, RegisterOptions, Registration,
    RegistrationError, Report, Request, Version, check_depth, is_blank, read_history_request, read_need, read_report,
};

use crate::config::Config;
use crate::registry::Rejection;

/// Reads the frames of one connection and counts bad ones.
#[derive(Debug)]
pub(crate) struct CommandReader {
    version: Version,
    pub(crate) counts: FrameCounts,
    blank_second: Option<Instant>,
    blank_in_second: u32,
}

/// Counts the frames of one connection, for the log line at its end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FrameCounts {
    pub(crate) packets: u64,
    pub(crate) ignored: u64,
    pub(crate) blank: u64,
    pub(crate) strikes: u32,
}

/// The request in a frame.
#[derive(Debug)]
pub(crate) enum Command {
    /// Nothing to do.
    Ignore,
    /// A packet of a version 1 peer is skipped. The peer may not be told, so it is logged.
    Skip(Rejection),
    /// A version 1 peer's registration is rejected. The peer may not be told, so this is logged. It
    /// is still told of changes, because version 1 tells every peer that registers.
    FollowOnly(Rejection),
    /// Register, or replace the registration.
    Register(Box<Registration>, RegisterOptions),
    /// Send the list under this key.
    GetList(Key),
    /// Remove the registration: the peer is about to leave.
    Leave,
    /// The peer knows this state, and is alive.
    Acknowledge(Pong),
    /// The peer's report about other nodes.
    Report(Report),
    /// A part of the peer's copy, which [`protocol::read_copy`] reads.
    CopyPart,
    /// Send the history of a node under this key.
    GetHistory(Key, String),
    /// Say under this key who offers these routes, and tell the peer of the nodes that do.
    Need(Key, Vec<String>),
    /// Tell the peer what is wrong and go on: it has shown `$`.
    Reject(Option<Key>, Rejection),
    /// Tell the peer what is wrong and close.
    Cut(Rejection),
}

impl CommandReader {
    pub(crate) fn new() -> Self {
        Self { version: Version::V1, counts: FrameCounts::default(), blank_second: None, blank_in_second: 0 }
    }

    /// The version that the peer has shown so far.
    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// Decides what to do about one frame that arrived at `now`.
    pub(crate) fn read(&mut self, now: Instant, frame: &[u8], config: &Config) -> Command {
        if is_blank(frame) {
            return self.read_blank(now, config);
        }
        self.counts.packets += 1;
        // White space is cut off, so that offsets in errors count from the start of the packet, and
        // not from a line end that was typed before it.
        let frame = frame.trim_ascii();
        if let Err(too_deep) = check_depth(frame, config.max_json_depth) {
            return self.strike(Rejection::new(400, "too_deep", too_deep.to_string()), config);
        }
        let packet = match Packet::parse(frame) {
            Ok(packet) => packet,
            Err(error @ PacketError::Encoding { .. }) => {
                return Command::Cut(Rejection::new(400, "bad_encoding", error.to_string()));
            }
            Err(PacketError::Json { at, source }) => {
                let source = source.to_string();
                // The parser counts lines and columns; a packet has neither.
                let what = source.split(" at line ").next().unwrap_or_default();
                return self.strike(Rejection::new(400, "bad_json", format!("at byte {at}: {what}")), config);
            }
        };
        let registers = (packet.uri(), packet.method()) == (REGISTRY_URI, "POST");
        let shown = if registers { Registration::version(packet.params) } else { Version::V1 };
        self.version = self.version.max(packet.version()).max(shown);
        match (packet.uri(), packet.method()) {
            (REGISTRY_URI, "POST") => match register(&packet, config) {
                Ok((registration, options)) => Command::Register(Box::new(registration), options),
                Err(error) => {
                    let rejection = Rejection::new(400, error.reason(), describe(&error));
                    match self.version {
                        Version::V1 => {
                            self.counts.ignored += 1;
                            Command::FollowOnly(rejection)
                        }
                        Version::V2 => self.reject(packet.key, rejection),
                    }
                }
            },
            (REGISTRY_URI, "GET") => Command::GetList(Request::from_packet(packet).key.unwrap_or(Key::Number(0))),
            (REGISTRY_URI, "DELETE") if self.version == Version::V2 => Command::Leave,
            (REGISTRY_URI, "PUT") if packet.version() == Version::V2 => Command::CopyPart,
            (REGISTRY_URI, "PATCH") if packet.version() == Version::V2 => match read_report(packet.params) {
                Some(report) => Command::Report(report),
                None => self.reject(packet.key, Rejection::new(400, "bad_report", "params is not a report")),
            },
            (PONG_URI, _) => Command::Acknowledge(Pong::from_packet(&packet)),
            (HISTORY_URI, "GET") if packet.version() == Version::V2 => {
                let node = read_history_request(packet.params).unwrap_or_default();
                Command::GetHistory(packet.key.unwrap_or(Key::Number(0)), node)
            }
            (NEED_URI, _) if packet.version() == Version::V2 => match (packet.key, read_need(packet.params)) {
                (Some(key), Some(routes)) => Command::Need(key, routes),
                (key, _) => self.reject(key, Rejection::new(400, "bad_need", "the packet asks for no routes")),
            },
            (uri, method) => {
                let message = format!("{method}{uri} is unknown to a Distributor");
                self.reject(packet.key, Rejection::new(501, "unsupported", message))
            }
        }
    }

    fn read_blank(&mut self, now: Instant, config: &Config) -> Command {
        const SECOND: std::time::Duration = std::time::Duration::from_secs(1);
        self.counts.blank += 1;
        if self.blank_second.is_none_or(|begin| now >= begin + SECOND) {
            self.blank_second = Some(now);
            self.blank_in_second = 0;
        }
        self.blank_in_second += 1;
        if self.blank_in_second > config.max_blank_frames {
            return Command::Cut(Rejection::new(
                429,
                "too_many_empty_frames",
                "more empty frames than allowed in a second",
            ));
        }
        Command::Ignore
    }

    /// A broken packet. After the third the peer is cut, because later ones are unlikely to be
    /// better.
    fn strike(&mut self, rejection: Rejection, config: &Config) -> Command {
        self.counts.strikes += 1;
        if self.counts.strikes >= config.max_strikes {
            return Command::Cut(rejection);
        }
        match self.version {
            Version::V1 => Command::Skip(rejection),
            Version::V2 => Command::Reject(None, rejection),
        }
    }

    /// A well-formed packet with wrong content. It does not count as broken, and version 1 peers
    /// are told nothing, as ever.
    fn reject(&mut self, key: Option<Key>, rejection: Rejection) -> Command {
        self.counts.ignored += 1;
        match self.version {
            Version::V1 => Command::Skip(rejection),
            Version::V2 => Command::Reject(key, rejection),
        }
    }
}

fn register(packet: &Packet<'_>, config: &Config) -> Result<(Registration, RegisterOptions), RegistrationError> {
    let registration = Registration::parse(packet.params, &config.registration_limits())?;
    Ok((registration, RegisterOptions::parse(packet.meta, &config.registration_limits())?))
}

/// Names another protocol by the first bytes of a connection, so that its operator finds the
/// mistake.
pub(crate) fn guess_protocol(first_bytes: &[u8]) -> Option<&'static str> {
    const SIGNS: [(&[u8], &str); 10] = [
        (b"\x16\x03", "TLS"),
        (b"SSH-", "SSH"),
        (b"PRI * HTTP/2", "HTTP/2"),
        (b"GET ", "HTTP"),
        (b"POST ", "HTTP"),
        (b"PUT ", "HTTP"),
        (b"HEAD ", "HTTP"),
        (b"DELETE ", "HTTP"),
        (b"OPTIONS ", "HTTP"),
        (b"CONNECT ", "HTTP"),
    ];
    SIGNS.iter().find(|(sign, _)| first_bytes.starts_with(sign)).map(|&(_, name)| name)
}

fn describe(error: &RegistrationError) -> String {
    match error {
        RegistrationError::Shape(source) => format!("{error}: {source}"),
        RegistrationError::Port(_)
        | RegistrationError::TooManyUrls { .. }
        | RegistrationError::UrlTooLong { .. }
        | RegistrationError::TooManyInterests
        | RegistrationError::TooManyPrefixes
        | RegistrationError::Advertise(_)
        | RegistrationError::Name => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = r#"{"uri":"/x","method":"GET","$":{}}"#;

    /// Checks the commands of frames on one connection, in a short form.
    #[track_caller]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn check(frames: &[&str], expected: &[&str]) {
        let mut reader = CommandReader::new();
        let now = Instant::now();
        let seen: Vec<_> = frames
            .iter()
            .map(|frame| match reader.read(now, frame.as_bytes(), &Config::default()) {
                Command::Ignore => "ignore".to_owned(),
                Command::Skip(rejection) => format!("skip {}", rejection.reason),
                Command::FollowOnly(rejection) => format!("follow only {}", rejection.reason),
                Command::Register(registration, _) => format!("register {}", registration.name),
                Command::GetList(key) => format!("get list {key}"),
                Command::Leave => "leave".to_owned(),
                Command::Acknowledge(pong) => format!("acknowledge {}", pong.revision.unwrap_or_default()),
                Command::Report(report) => format!("report {:?}", report.failed),
                Command::CopyPart => "copy".to_owned(),
                Command::GetHistory(key, node) => format!("get history {key} {node}"),
                Command::Need(key, routes) => format!("need {key} {}", routes.join(" ")),
                Command::Reject(key, rejection) => {
                    format!("reject {} {}", key.map_or_else(String::new, |key| key.to_string()), rejection.reason)
                }
                Command::Cut(rejection) => format!("cut {}", rejection.reason),
            })
            .collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn js6_js7_version_1_peers_are_never_told_what_is_wrong() {
        check(&[r#"{"uri":"/distributes","method":"POST","key":0,"params":{"port":1,"name":"a"}}"#], &["register a"]);
        check(&[r#"{"uri":"/distributes","method":"GET","key":"k"}"#], &["get list \"k\""]);
        check(
            &[r#"{"uri":"/distributes","method":"DELETE"}"#, r#"{"uri":"/distributes","method":"PUT"}"#],
            &["skip unsupported"; 2],
        );
        check(&[r#"{"uri":"/goods","method":"GET","params":{}}"#, "{}"], &["skip unsupported"; 2]);
        for params in ["null", "[]", "\"text\"", "7"] {
            let packet = format!(r#"{{"uri":"/distributes","method":"POST","params":{params}}}"#);
            check(&[&packet], &["follow only bad_registration"]);
        }
        check(&[r#"{"uri":"/distributes","method":"GET","params":{"key":5}}"#], &["get list 5"]);
    }

    #[test]
    fn js6_js7_version_2_peers_are() {
        check(&[V2], &["reject  unsupported"]);
        check(&[V2, r#"{"uri":"/distributes","method":"DELETE"}"#], &["reject  unsupported", "leave"]);
        check(
            &[r#"{"uri":"/distributes","method":"POST","key":7,"params":{"port":0,"$":{}}}"#],
            &["reject 7 bad_port"],
        );
        check(&[V2, "{]"], &["reject  unsupported", "reject  bad_json"]);
    }

    #[test]
    fn version_2_peers_say_more() {
        check(
            &[r#"{"uri":"$pong","$":{"epoch":5,"rev":7}}"#, r#"{"uri":"$pong","$":{}}"#],
            &["acknowledge 5.7", "acknowledge 0.0"],
        );
        check(&[r#"{"uri":"/distributes","method":"PATCH","params":{"failed":[1,2]},"$":{}}"#], &["report [1, 2]"]);
        check(&[r#"{"uri":"/distributes","method":"PATCH","params":{},"$":{}}"#], &["reject  bad_report"]);
        check(&[r#"{"uri":"/distributes","method":"PUT","params":[],"$":{}}"#], &["copy"]);
        check(
            &[r#"{"uri":"/distributes/history","method":"GET","key":3,"params":{"node":"a"},"$":{}}"#],
            &["get history 3 a"],
        );
        check(
            &[r#"{"uri":"/distributes/history","method":"GET","key":3,"params":{"node":"a"}}"#],
            &["skip unsupported"],
        );
        check(
            &[
                r#"{"uri":"$need","key":3,"params":{"routes":["GET/a","EVENT/b"]},"$":{}}"#,
                r#"{"uri":"$need","key":4,"params":{"routes":[]},"$":{}}"#,
                r#"{"uri":"$need","params":{"routes":["GET/a"]},"$":{}}"#,
            ],
            &["need 3 GET/a EVENT/b", "reject 4 bad_need", "reject  bad_need"],
        );
        check(&[r#"{"uri":"$need","key":3,"params":{"routes":["GET/a"]}}"#], &["skip unsupported"]);
        let many = vec![r#""n""#; 257].join(",");
        let packet = format!(
            r#"{{"uri":"/distributes","method":"POST","params":{{"port":1,"name":"a","$":{{}}}},"$":{{"needs":[{many}]}}}}"#
        );
        check(&[&packet], &["reject  too_many_needs"]);
    }

    #[test]
    fn js1_js3_js14_three_strikes() {
        check(
            &["{]", "{}", "[]", r#"{"uri":"/a","uri":"/a"}"#],
            &["skip bad_json", "skip unsupported", "skip bad_json", "cut bad_json"],
        );
        check(&["{} x", "{}{}", "nul"], &["skip bad_json", "skip bad_json", "cut bad_json"]);
    }

    #[test]
    fn js2_depth_is_exact() {
        let nested = |depth: usize| format!(r#"{{"x":{}{}}}"#, "[".repeat(depth - 1), "]".repeat(depth - 1));
        check(
            &[V2, &nested(31), &nested(32), &nested(33)],
            &["reject  unsupported", "reject  unsupported", "reject  unsupported", "reject  too_deep"],
        );
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
    fn fr4_empty_frames_are_skipped_up_to_a_rate() {
        let start = Instant::now();
        let mut reader = CommandReader::new();
        let config = Config { max_blank_frames: 3, ..Config::default() };
        for (ms, cut) in
            [(0, false), (1, false), (999, false), (1000, false), (1001, false), (1002, false), (1003, true)]
        {
            let command = reader.read(start + std::time::Duration::from_millis(ms), b" \r\n", &config);
            assert_eq!(matches!(command, Command::Cut(_)), cut, "{ms}");
        }
        assert_eq!(reader.counts.blank, 7);
    }

    #[test]
    fn fr7_bad_encoding_cuts() {
        let mut reader = CommandReader::new();
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let now = Instant::now();
        for frame in [&b"{\"uri\":\"\xff\"}"[..], b"{\"a\":\"\xb6\"}", b"{\"a\":\"\xc0\xaf\"}", b"\xed\xa0\x80"] {
            let command = reader.read(now, frame, &Config::default());
            assert!(matches!(command, Command::Cut(Rejection { reason: "bad_encoding", .. })));
        }
    }

    #[test]
    fn fr10_other_protocols_are_guessed() {
        for (bytes, guess) in [
            (&b"\x16\x03\x01\x02\x00"[..], Some("TLS")),
            (b"GET / HTTP/1.1\r\n", Some("HTTP")),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Some("SSH")),
            (b"PRI * HTTP/2.0\r\n", Some("HTTP/2")),
            (b"{\"uri\":\"GET /\"}", None),
            (b"G", None),
            (b"", None),
        ] {
            assert_eq!(guess_protocol(bytes), guess);
        }
    }
}
