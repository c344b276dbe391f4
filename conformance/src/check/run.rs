//! Runs each check: what the node is sent, and what it has to answer.

use std::time::Duration;

use tokio::time::sleep;

use super::Check;
use crate::wire::{KeyPosition, NodeResponse, NodeUnderTest, Received, Wire, shown};

/// Calls in one segment: more than a node handles in one turn of its loop.
const MANY: u64 = 200;
/// Parts that are read of a stream, because it may have no end.
const MANY_PARTS: u64 = 5;
/// Pause between the pieces of a packet, so that the node reads them one by one.
const PIECE_TIME: Duration = Duration::from_millis(1);
/// Pause between the two halves of a packet.
const HALF_TIME: Duration = Duration::from_millis(50);
/// How long to wait for an answer that must not come.
const GRACE: Duration = Duration::from_millis(200);

/// What was seen: `Ok` if it is as expected.
type Observed = Result<String, String>;

impl Check {
    /// Runs this check over new connections.
    pub(crate) async fn run(self, node: &NodeUnderTest) -> Observed {
        let both = |key: &str| node.call(key, KeyPosition::Both, "");
        match self {
            Self::Whole => one(node, "7", both("7")).await,
            Self::OneBytePieces => in_pieces(node).await,
            Self::SplitAnywhere => split_anywhere(node).await,
            Self::ManyAtOnce => many(node).await,
            Self::KeyNumber => exact(node, "7").await,
            Self::KeyText => exact(node, r#""k-7""#).await,
            Self::KeyLong => {
                exact(node, "9007199254740993").await?;
                exact(node, "18446744073709551615").await
            }
            Self::KeyAtTop => one(node, "7", node.call("7", KeyPosition::Top, "")).await,
            Self::KeyInParams => one(node, "7", node.call("7", KeyPosition::Params, "")).await,
            Self::KeyInBoth => one(node, "7", both("7")).await,
            Self::EscapedDelimiter => escaped_delimiter(node).await,
            Self::UnknownMembers => {
                let more = r#","nodeconform":[{"key":8,"$":{}}],"":null"#;
                one(node, "7", node.call("7", KeyPosition::Both, more)).await
            }
            Self::MemberOrder => member_order(node).await,
            Self::BlankFrames => {
                let calls = format!("¶ \r\n¶\n{}\r\n¶{}\n", both("7"), both("8"));
                let mut wire = node.connect().await?;
                wire.send(calls).await;
                wire.answer("7", node.within).await?;
                wire.answer("8", node.within).await.map(|answer| shown(&answer.text))
            }
            Self::Version1Form => {
                let answer = ask(node, "7", both("7")).await?;
                answer.check_form_1().map(|()| shown(&answer.text))
            }
            Self::Version2Form => {
                let answer = ask(node, "7", node.call("7", KeyPosition::Both, r#","$":{"d":5000}"#)).await?;
                answer.check_form_2().map(|()| shown(&answer.text))
            }
            Self::Version2Failure => version_2_failure(node).await,
            Self::MixedVersions => mixed(node).await,
            Self::AnsweredOnce => only(node, &[both("7")], &["7", "9"]).await,
            Self::OneWay => {
                let one_way =
                    [node.call("7", KeyPosition::Nowhere, ""), node.call("7", KeyPosition::Nowhere, r#","$":{}"#)];
                only(node, &one_way, &["9"]).await
            }
            Self::OldLog => {
                let log = r#"{"uri":"/logs","method":"POST","key":0,"params":"{\"a\":1}"}¶"#;
                only(node, &[log.to_owned()], &["9"]).await
            }
            Self::HalfClose => {
                let mut wire = node.connect().await?;
                wire.send(both("7")).await;
                wire.close_our_side().await;
                wire.answer("7", node.within).await.map(|answer| shown(&answer.text))
            }
            Self::LaterPackets => {
                let later = [
                    r#"{"uri":"$cancel","params":{"key":7},"$":{}}¶"#.to_owned(),
                    r#"{"uri":"$cancel","key":7,"$":{}}¶"#.to_owned(),
                    r#"{"uri":"$nodeconform","params":{},"$":{}}¶"#.to_owned(),
                ];
                only(node, &later, &["9"]).await
            }
            Self::ClientRequest => client_request(node).await,
            Self::WrongInstance => wrong_instance(node).await,
            Self::Stream => stream(node).await,
            Self::UnknownMethod => refused(&NodeUnderTest { method: "NODECONFORM".to_owned(), ..node.clone() }).await,
            Self::UnknownUri => {
                refused(&NodeUnderTest { uri: "/nodeconform/unknown".to_owned(), ..node.clone() }).await
            }
            Self::BrokenJson => broken(node, "{\"uri\":}¶".as_bytes()).await,
            Self::BrokenText => broken(node, b"{\"uri\":\"\xff\"}\xc2\xb6").await,
            Self::NoObject => broken(node, "7¶".as_bytes()).await,
            Self::MissingParams => {
                let whole = both("7");
                let (head, _) = whole.split_once(r#","params":"#).expect("every call has params");
                one(node, "7", format!("{head}}}¶")).await
            }
        }
    }
}

/// Makes one call over a new connection, and returns the answer.
async fn ask(node: &NodeUnderTest, key: &str, call: String) -> Result<NodeResponse, String> {
    let mut wire = node.connect().await?;
    wire.send(call).await;
    wire.answer(key, node.within).await
}

async fn one(node: &NodeUnderTest, key: &str, call: String) -> Observed {
    ask(node, key, call).await.map(|answer| shown(&answer.text))
}

async fn exact(node: &NodeUnderTest, key: &str) -> Observed {
    let came = {
        let mut wire = node.connect().await?;
        wire.send(node.call(key, KeyPosition::Both, "")).await;
        wire.next(node.within).await
    };
    let seen = came.to_string();
    let Received::Frame(text) = came else { return Err(seen) };
    let as_it_was = NodeResponse::parse(&text).is_some_and(|answer| answer.get("key") == Some(key));
    if as_it_was { Ok(seen) } else { Err(seen) }
}

async fn in_pieces(node: &NodeUnderTest) -> Observed {
    let mut wire = node.connect().await?;
    for byte in node.call("7", KeyPosition::Both, "").as_bytes() {
        wire.send([*byte]).await;
        sleep(PIECE_TIME).await;
    }
    wire.answer("7", node.within).await.map(|answer| shown(&answer.text))
}

async fn split_anywhere(node: &NodeUnderTest) -> Observed {
    let call = node.call("7", KeyPosition::Both, r#","text":"굶 가나다""#);
    let bytes = call.as_bytes();
    let mut wires = Vec::new();
    for at in 1..bytes.len() {
        let mut wire = node.connect().await?;
        wire.send(&bytes[..at]).await;
        wires.push((wire, at));
    }
    sleep(HALF_TIME).await;
    for (wire, at) in &mut wires {
        wire.send(&bytes[*at..]).await;
    }
    let count = wires.len();
    for (mut wire, at) in wires {
        wire.answer("7", node.within).await.map_err(|seen| format!("split after {at} bytes: {seen}"))?;
    }
    Ok(format!("{count} answers"))
}

async fn many(node: &NodeUnderTest) -> Observed {
    let mut wire = node.connect().await?;
    wire.send((1..=MANY).map(|key| node.call(&key.to_string(), KeyPosition::Both, "")).collect::<String>()).await;
    let mut missing: Vec<u64> = (1..=MANY).collect();
    while !missing.is_empty() {
        let came = wire.next(node.within).await;
        let Received::Frame(text) = &came else {
            return Err(format!("{} of {MANY} answers, then {came}", MANY - missing.len() as u64));
        };
        let key = NodeResponse::parse(text).and_then(|answer| answer.get("key")?.trim_matches('"').parse().ok());
        let Some(at) = missing.iter().position(|other| Some(*other) == key) else {
            return Err(format!("a second answer, or none of these: {came}"));
        };
        missing.swap_remove(at);
    }
    silence(&mut wire, GRACE).await.map(|()| format!("{MANY} answers"))
}

/// Puts the delimiter into the key, which every node returns, into params, and into the uri, which
/// some nodes repeat in their refusal.
async fn escaped_delimiter(node: &NodeUnderTest) -> Observed {
    let key = r#""\u00b6 굶""#;
    let mut node = node.clone();
    node.params.insert("text".to_owned(), "¶ 굶".into());
    let seen = one(&node, key, node.call(key, KeyPosition::Both, "")).await?;
    node.uri = "/nodeconform/¶".to_owned();
    one(&node, key, node.call(key, KeyPosition::Both, "")).await?;
    Ok(seen)
}

async fn member_order(node: &NodeUnderTest) -> Observed {
    let whole = node.call("7", KeyPosition::Params, "");
    let (head, params) = whole.split_once(r#","params":"#).expect("every call has params");
    let head = head.strip_prefix('{').expect("every call is an object");
    let params = params.strip_suffix("}¶").expect("every call ends there");
    let orders = [
        format!(r#"{{{head},"key":7,"$":{{"d":5000}},"params":{params}}}¶"#),
        format!(r#"{{"params":{params},"$":{{}},"key":7,{head}}}¶"#),
        format!("{{ \"key\" : 7 ,\t\"params\" : {params}\n,{head}\r\n}} ¶"),
    ];
    let mut seen = String::new();
    for call in orders {
        seen = one(node, "7", call.clone()).await.map_err(|seen| format!("{seen} to {}", shown(&call)))?;
    }
    Ok(seen)
}

async fn version_2_failure(node: &NodeUnderTest) -> Observed {
    let node =
        NodeUnderTest { uri: "/nodeconform/unknown".to_owned(), method: "NODECONFORM".to_owned(), ..node.clone() };
    let answer = ask(&node, "7", node.call("7", KeyPosition::Both, r#","$":{}"#)).await?;
    let said =
        |member: &str| answer.meta().is_some_and(|meta| meta.get(member).is_some_and(serde_json::Value::is_string));
    let seen = shown(&answer.text);
    if answer.check_form_2().is_ok() && answer.is_failure() && said("r") && said("m") { Ok(seen) } else { Err(seen) }
}

async fn mixed(node: &NodeUnderTest) -> Observed {
    let mut wire = node.connect().await?;
    for (key, more) in [("1", ""), ("2", r#","$":{}"#), ("3", "")] {
        wire.send(node.call(key, KeyPosition::Both, more)).await;
        let answer = wire.answer(key, node.within).await?;
        if more.is_empty() { answer.check_form_1()? } else { answer.check_form_2()? }
    }
    Ok("the forms of 1, 2 and 1".to_owned())
}

/// Calls as a gateway does for its client, in sound and in broken forms.
async fn client_request(node: &NodeUnderTest) -> Observed {
    let sound = r#"{"a":"::1","o":"a","id":"1","m":"GET","t":"/?¶","s":true,"h":[["cookie","a=\"; b"],["x","굶"]]}"#;
    let broken = [r#"{"a":7,"o":[],"id":null,"m":{},"t":1,"s":"","h":[["a"]]}"#, r#"{"h":{"a":"b"}}"#, "[]", "null"];
    let mut seen = String::new();
    for request in [sound].into_iter().chain(broken) {
        let meta = format!(r#","$":{{"q":{}}}"#, request.replace('¶', "\\u00b6"));
        let answer = ask(node, "7", node.call("7", KeyPosition::Top, &meta)).await;
        let answer = answer.map_err(|seen| format!("{seen} to {}", shown(request)))?;
        answer.check_form_2()?;
        seen = shown(&answer.text);
    }
    Ok(seen)
}

/// Asks for an instance that does not exist, and then for the one that the node says it is.
async fn wrong_instance(node: &NodeUnderTest) -> Observed {
    let ask = async |to: &str| {
        let mut wire = node.connect().await?;
        wire.send(format!(r#"{{"uri":"$hello","$":{{"f":"nodeconform","to":"{to}"}}}}¶"#)).await;
        wire.send(node.call("7", KeyPosition::Both, r#","$":{}"#)).await;
        let came = wire.next(node.within).await;
        let hello = match &came {
            Received::Frame(text) => NodeResponse::parse(text),
            Received::End | Received::Nothing => None,
        };
        let meta = hello.filter(|hello| hello.get("uri") == Some(r#""$hello""#)).and_then(|hello| hello.meta());
        let from = meta.as_ref().and_then(|meta| meta.get("f")?.as_str()).map(str::to_owned);
        let from = from.ok_or_else(|| came.to_string())?;
        Ok::<_, String>((from, wire.answer("7", node.within).await?))
    };
    let is_refused =
        |answer: &NodeResponse| answer.meta().is_some_and(|meta| meta.get("r") == Some(&"wrong_instance".into()));
    let (from, refused) = ask("nodeconform").await?;
    if !is_refused(&refused) {
        return Err(shown(&refused.text));
    }
    // `*` stands for any instance.
    for to in [from.as_str(), "*"] {
        let (_, answer) = ask(to).await?;
        if is_refused(&answer) {
            return Err(format!("{to}: {}", shown(&answer.text)));
        }
    }
    Ok(shown(&refused.text))
}

/// Grants credit of one byte, which is enough for one part, and after that part more. Takes some
/// parts, and cancels the rest.
async fn stream(node: &NodeUnderTest) -> Observed {
    let mut wire = node.connect().await?;
    wire.send(node.call("7", KeyPosition::Top, r#","$":{"c":1}"#)).await;
    for number in 0..=MANY_PARTS {
        let answer = wire.answer("7", node.within).await?;
        let meta = answer.meta().unwrap_or_default();
        let is_part = meta.get("n").is_some();
        if is_part && meta["n"] != number {
            return Err(format!("part {number} was due: {}", shown(&answer.text)));
        }
        if !is_part || meta.get("end").is_some() {
            answer.check_form_2()?;
            silence(&mut wire, GRACE).await?;
            return Ok(if number == 0 { "one piece".to_owned() } else { format!("the end, as number {number}") });
        }
        if number == 1 {
            silence(&mut wire, GRACE).await?;
            wire.send(r#"{"uri":"$credit","key":7,"$":{"c":1000000}}¶"#).await;
        }
    }
    wire.send(r#"{"uri":"$cancel","key":7,"$":{}}¶"#).await;
    wire.send(node.call("9", KeyPosition::Top, r#","$":{}"#)).await;
    // Parts that were under way may still come.
    while let Received::Frame(text) = wire.next(node.within).await {
        if NodeResponse::parse(&text).is_some_and(|answer| answer.get("key") == Some("9")) {
            silence(&mut wire, GRACE).await?;
            return Ok(format!("{MANY_PARTS} parts and more, until the stream was cancelled"));
        }
    }
    Err("after a stream was cancelled, no other call was answered".to_owned())
}

/// Sends packets, then a call with the key 9. Exactly the answers to `keys` may come.
async fn only(node: &NodeUnderTest, packets: &[String], keys: &[&str]) -> Observed {
    let mut wire = node.connect().await?;
    for packet in packets {
        wire.send(packet).await;
    }
    wire.send(node.call("9", KeyPosition::Both, "")).await;
    let mut missing = keys.to_vec();
    while !missing.is_empty() {
        let came = wire.next(node.within).await;
        let answer = match &came {
            Received::Frame(text) => NodeResponse::parse(text),
            Received::End | Received::Nothing => None,
        };
        let key = answer.as_ref().and_then(|answer| answer.get("key")).map(|key| key.trim_matches('"'));
        let Some(at) = missing.iter().position(|other| Some(*other) == key) else { return Err(came.to_string()) };
        missing.swap_remove(at);
    }
    silence(&mut wire, GRACE).await.map(|()| "nothing but the answers to other calls".to_owned())
}

async fn silence(wire: &mut Wire, within: Duration) -> Result<(), String> {
    match wire.next(within).await {
        Received::Nothing => Ok(()),
        came @ (Received::Frame(_) | Received::End) => Err(format!("all answers, and then {came}")),
    }
}

/// Calls something that the node does not have: it has to refuse.
async fn refused(node: &NodeUnderTest) -> Observed {
    let mut wire = node.connect().await?;
    wire.send(node.call("7", KeyPosition::Both, "")).await;
    let came = wire.next(node.within).await;
    let seen = came.to_string();
    match came {
        Received::Frame(text) if text.trim() == "null" => Ok("null, as version 1 nodes answer".to_owned()),
        Received::Frame(text) if NodeResponse::parse(&text).is_some_and(|answer| answer.is_failure()) => Ok(seen),
        Received::Frame(_) | Received::End | Received::Nothing => Err(seen),
    }
}

/// Sends a broken packet and a call. The node has to answer the call or to close the connection,
/// and a new connection has to work.
async fn broken(node: &NodeUnderTest, packet: &[u8]) -> Observed {
    let mut wire = node.connect().await?;
    wire.send(packet).await;
    wire.send(node.call("7", KeyPosition::Both, "")).await;
    let policy = match wire.next(node.within).await {
        Received::Frame(text) if NodeResponse::parse(&text).is_some_and(|answer| answer.get("key").is_some()) => {
            "it goes on"
        }
        Received::End => "the connection ends",
        came @ (Received::Frame(_) | Received::Nothing) => return Err(came.to_string()),
    };
    node.answer_to_a_fresh_call().await.map_err(|seen| format!("{policy}, and a fresh connection: {seen}"))?;
    Ok(policy.to_owned())
}
