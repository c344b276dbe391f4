//! A node that keeps the protocol passes each check. Each check fails on a node with a fault.

use std::time::Duration;

use clap::ValueEnum;
use protocol::{FrameDecoder, is_blank};
use serde_json::{Map, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Check;
use crate::wire::{NodeResponse, NodeUnderTest};

/// How long a check of a node with a fault waits.
const WITHIN: Duration = Duration::from_secs(1);
/// How long a node takes that is slow.
const SLOW: Duration = Duration::from_millis(50);

/// What is wrong with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    Silent,
    DropsPieces,
    LosesOneOfMany,
    QuotesNumbers,
    ShortensKeys,
    RoundsKeys,
    LooksInParamsOnly,
    LooksAtTopOnly,
    WantsOneKey,
    WritesRawDelimiters,
    ClosesOnUnknownMembers,
    WantsOrder,
    ClosesOnBlankFrames,
    KnowsVersion2Only,
    KnowsVersion1Only,
    SaysNoReason,
    StaysInOneVersion,
    AnswersTwice,
    AnswersWithoutKey,
    AnswersLogs,
    ClosesWithItsCaller,
    AnswersLaterPackets,
    ClosesOnClientRequests,
    SaysNotWhoItIs,
    IgnoresCredit,
    RefusesInSilence,
    IsMutedByBrokenPackets,
    ClosesWithoutParams,
}

/// One connection to the node of the tests.
struct Connection {
    fault: Fault,
    stream: TcpStream,
    is_misdirected: bool,
    is_muted: bool,
    is_v2: Option<bool>,
}

impl Connection {
    async fn serve(mut self) -> Option<()> {
        let mut decoder = FrameDecoder::new(1 << 20);
        loop {
            if self.stream.read_buf(decoder.buffer()).await.ok()? == 0 {
                // A caller that has closed its side reads on.
                sleep(10 * WITHIN).await;
                return None;
            }
            while let Some(frame) = decoder.next_frame().ok()? {
                if is_blank(&frame) {
                    if self.fault == Fault::ClosesOnBlankFrames {
                        return None;
                    }
                } else if self.fault == Fault::ClosesWithItsCaller {
                    sleep(SLOW).await;
                    if self.stream.read(&mut [0]).await.ok()? == 0 {
                        return None;
                    }
                } else {
                    self.take(&frame).await?;
                }
            }
            if self.fault == Fault::DropsPieces {
                decoder = FrameDecoder::new(1 << 20);
            }
        }
    }

    async fn send(&mut self, packet: &str) -> Option<()> {
        self.stream.write_all(format!("{packet}¶").as_bytes()).await.ok()
    }

    /// Takes a frame; `None` if the connection ends.
    async fn take(&mut self, frame: &[u8]) -> Option<()> {
        let text = String::from_utf8_lossy(frame).into_owned();
        let packet = std::str::from_utf8(frame).ok().and_then(NodeResponse::parse);
        let Some(packet) = packet else {
            self.is_muted = self.fault == Fault::IsMutedByBrokenPackets;
            return Some(());
        };
        let has = |words: &str| text.contains(words);
        match self.fault {
            Fault::Silent => return Some(()),
            Fault::ClosesOnUnknownMembers if has("nodeconform\":[") => return None,
            Fault::ClosesOnClientRequests if has("\"q\"") => return None,
            Fault::ClosesWithoutParams if packet.get("params").is_none() => return None,
            Fault::WantsOrder if !text.starts_with(r#"{"uri""#) => return Some(()),
            _usual if self.is_muted => return Some(()),
            _usual => {}
        }
        let uri: String = serde_json::from_str(packet.get("uri")?).ok()?;
        match uri.as_str() {
            "$hello" if self.fault == Fault::SaysNotWhoItIs => Some(()),
            "$hello" => {
                let to = packet.meta()?.get("to").and_then(Value::as_str).map(str::to_owned);
                self.is_misdirected = to.is_some_and(|to| to != "me" && to != "*");
                self.send(r#"{"uri":"$hello","$":{"f":"me"}}"#).await
            }
            _later if uri.starts_with('$') && self.fault == Fault::AnswersLaterPackets => {
                self.send(r#"{"key":7,"$":{},"params":1}"#).await
            }
            _later if uri.starts_with('$') => Some(()),
            uri => self.call(uri, &packet).await,
        }
    }

    async fn call(&mut self, uri: &str, packet: &NodeResponse) -> Option<()> {
        let is_v2 = packet.get("$").is_some();
        let first = *self.is_v2.get_or_insert(is_v2);
        let is_v2 = match self.fault {
            Fault::KnowsVersion2Only => true,
            Fault::KnowsVersion1Only => false,
            Fault::StaysInOneVersion => first,
            _usual => is_v2,
        };
        let Some(key) = self.key(packet) else { return Some(()) };
        let is_known = uri == "/n" && packet.get("method") == Some(r#""GET""#);
        if !is_known && self.fault == Fault::RefusesInSilence {
            return Some(());
        }
        if self.fault == Fault::IgnoresCredit && packet.meta().is_some_and(|meta| meta.contains_key("c")) {
            for number in 0..9 {
                self.send(&format!(r#"{{"key":{key},"$":{{"n":{number}}},"params":1}}"#)).await?;
            }
        }
        let answer = match (is_v2, is_known) {
            (true, _) if self.is_misdirected => format!(r#"{{"key":{key},"$":{{"s":421,"r":"wrong_instance"}}}}"#),
            (true, true) => format!(r#"{{"key":{key},"$":{{}},"params":1}}"#),
            (true, false) if self.fault == Fault::SaysNoReason => format!(r#"{{"key":{key},"$":{{"s":404}}}}"#),
            (true, false) => format!(r#"{{"key":{key},"$":{{"s":404,"r":"no_route","m":"no"}}}}"#),
            (false, true) => format!(r#"{{"key":{key},"errorcode":0,"errormessage":"success","results":1}}"#),
            (false, false) => format!(r#"{{"key":{key},"errorcode":404,"errormessage":"no"}}"#),
        };
        if self.fault == Fault::AnswersTwice {
            self.send(&answer).await?;
        }
        self.send(&answer).await
    }

    /// The key under which a call is answered; `None` if it is not.
    fn key(&self, packet: &NodeResponse) -> Option<String> {
        let inner: Option<Map<String, Value>> = packet.get("params").and_then(|text| serde_json::from_str(text).ok());
        let is_log = inner.is_none() && packet.get("params").is_some();
        let inner = inner.unwrap_or_default().get("key").map(ToString::to_string);
        let top = packet.get("key").map(str::to_owned);
        let key = match self.fault {
            Fault::AnswersLogs => top,
            _usual if is_log => None,
            Fault::LooksInParamsOnly => inner,
            Fault::LooksAtTopOnly => top,
            Fault::WantsOneKey if top.is_some() && inner.is_some() => None,
            Fault::AnswersWithoutKey => top.or(inner).or_else(|| Some("0".to_owned())),
            _usual => top.or(inner),
        }?;
        let is_text = key.starts_with('"');
        let key = match self.fault {
            Fault::QuotesNumbers if !is_text => format!("\"{key}\""),
            Fault::ShortensKeys if is_text => r#""k""#.to_owned(),
            Fault::RoundsKeys if !is_text && key.len() > 15 => format!("{}0", &key[..key.len() - 1]),
            Fault::WritesRawDelimiters => key.replace("\\u00b6", "¶"),
            Fault::LosesOneOfMany if key == "100" => return None,
            _usual => key,
        };
        Some(key)
    }
}

async fn begin(fault: Fault, within: Duration) -> (NodeUnderTest, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut node = JoinSet::new();
    node.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let connection = Connection { fault, stream, is_misdirected: false, is_muted: false, is_v2: None };
            connections.spawn(connection.serve());
        }
    });
    let (method, uri) = ("GET".to_owned(), "/n".to_owned());
    (NodeUnderTest { address, method, uri, params: Map::new(), within }, node)
}

#[tokio::test]
async fn a_node_that_keeps_the_protocol_passes_every_check() {
    let (node, _running) = begin(Fault::None, Duration::from_secs(60)).await;
    for check in Check::value_variants() {
        let seen = check.run(&node).await;
        assert!(seen.is_ok(), "{check:?}: {seen:?}");
    }
}

#[tokio::test]
async fn each_check_fails_on_a_node_with_a_fault() {
    let faults = [
        (Check::Whole, Fault::Silent, "silence"),
        (Check::OneBytePieces, Fault::DropsPieces, "silence"),
        (Check::SplitAnywhere, Fault::DropsPieces, "split after 1 bytes: silence"),
        (Check::ManyAtOnce, Fault::LosesOneOfMany, "199 of 200 answers, then silence"),
        (Check::KeyNumber, Fault::QuotesNumbers, r#"{"key":"7""#),
        (Check::KeyText, Fault::ShortensKeys, r#"{"key":"k""#),
        (Check::KeyLong, Fault::RoundsKeys, r#"{"key":9007199254740990"#),
        (Check::KeyAtTop, Fault::LooksInParamsOnly, "silence"),
        (Check::KeyInParams, Fault::LooksAtTopOnly, "silence"),
        (Check::KeyInBoth, Fault::WantsOneKey, "silence"),
        (Check::EscapedDelimiter, Fault::WritesRawDelimiters, r#"{"key":""#),
        (Check::UnknownMembers, Fault::ClosesOnUnknownMembers, "the connection was closed"),
        (Check::MemberOrder, Fault::WantsOrder, "silence to"),
        (Check::BlankFrames, Fault::ClosesOnBlankFrames, "the connection was closed"),
        (Check::Version1Form, Fault::KnowsVersion2Only, r#""$":{}"#),
        (Check::Version2Form, Fault::KnowsVersion1Only, r#""errorcode":0"#),
        (Check::Version2Failure, Fault::SaysNoReason, r#""$":{"s":404}}"#),
        (Check::MixedVersions, Fault::StaysInOneVersion, r#""errorcode":0"#),
        (Check::AnsweredOnce, Fault::AnswersTwice, r#"{"key":7"#),
        (Check::OneWay, Fault::AnswersWithoutKey, r#"{"key":0"#),
        (Check::OldLog, Fault::AnswersLogs, r#"{"key":0"#),
        (Check::HalfClose, Fault::ClosesWithItsCaller, "the connection was closed"),
        (Check::LaterPackets, Fault::AnswersLaterPackets, r#"{"key":7"#),
        (Check::ClientRequest, Fault::ClosesOnClientRequests, "the connection was closed to"),
        (Check::WrongInstance, Fault::SaysNotWhoItIs, r#""key":7"#),
        (Check::Stream, Fault::IgnoresCredit, r#"{"n":2}"#),
        (Check::UnknownMethod, Fault::RefusesInSilence, "silence"),
        (Check::UnknownUri, Fault::RefusesInSilence, "silence"),
        (Check::BrokenJson, Fault::IsMutedByBrokenPackets, "silence"),
        (Check::BrokenText, Fault::IsMutedByBrokenPackets, "silence"),
        (Check::NoObject, Fault::IsMutedByBrokenPackets, "silence"),
        (Check::MissingParams, Fault::ClosesWithoutParams, "the connection was closed"),
    ];
    let mut all = JoinSet::new();
    for (check, fault, words) in faults {
        all.spawn(async move {
            let (node, _running) = begin(fault, WITHIN).await;
            let seen = check.run(&node).await;
            assert!(seen.as_ref().is_err_and(|seen| seen.contains(words)), "{check:?}, {fault:?}: {seen:?}");
        });
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
    for check in Check::value_variants() {
        assert!(faults.iter().any(|(other, _, _)| other == check), "{check:?} may never fail");
    }
}
