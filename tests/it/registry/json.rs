//! JSON on the registry port: refused packets, and which peers are told.

use serde_json::json;
use tests::{Cluster, Peer};

/// A peer that has shown `$`, so that it is told what is wrong.
async fn version_2(cluster: &Cluster) -> Peer {
    let mut peer = cluster.peer().await;
    peer.send_packet(&json!({ "uri": "/distributes", "method": "GET", "key": 1, "$": {} })).await;
    while peer.next().await.expect("an answer")["key"] != 1 {}
    peer
}

/// The answer to each packet: the reason of a refusal, or "" for silence. Each packet has a
/// connection of its own.
async fn check(packets: &[(&str, &str)]) {
    let cluster = Cluster::start();
    for (packet, reason) in packets {
        let mut peer = version_2(&cluster).await;
        peer.send(format!("{packet}¶")).await;
        peer.send_packet(&json!({ "uri": "/distributes", "method": "GET", "key": 99 })).await;
        let answer = peer.next().await.expect("one broken packet does not end a connection");
        let seen = if answer["key"] == 99 { "" } else { answer["$"]["r"].as_str().expect("a reason") };
        assert_eq!(seen, *reason, "{packet}");
        if seen == "bad_json" {
            assert!(answer["$"]["m"].as_str().is_some_and(|text| text.starts_with("at byte ")), "{answer}");
        }
    }
}

#[tokio::test]
async fn js1_broken_json_is_refused_with_its_position() {
    let broken = [
        "[1,]",
        "[1 true]",
        "[a]",
        "[\"\": 1]",
        "[,1]",
        "[1,,2]",
        "[\"x\"]]",
        "[\"x\"",
        "[x",
        "[3[4]]",
        "[:]",
        "[-]",
        "[--1.]",
        "[-012]",
        "[.5]",
        "[0x1]",
        "[0e]",
        "[1eE2]",
        "[2.e3]",
        "[+1]",
        "[NaN]",
        "[Infinity]",
        "[1.]",
        "[012]",
        "{\"x\" \"b\"}",
        "{:\"b\"}",
        "{\"a\":\"b\",}",
        "{\"a\" b}",
        "{a:1}",
        "{'a':0}",
        "{\"a\":1 \"b\":2}",
        "{\"a\":",
        "{1:1}",
        "{\"a\":\"a\" 123}",
        "[\"\t\"]",
        "[\"\\x00\"]",
        "[\"\\u00A\"]",
        "[\"\\\"]",
        "[\"a\nb\"]",
        "\"",
        "'",
        "nul",
        "tru",
        "fals",
        "True",
        "{}}",
        "{\"a\":true} x",
        "*",
        "<null>",
        "[\u{a0}]",
        "\u{feff}{}",
        "abc",
        "]",
    ];
    check(&broken.map(|packet| (packet, "bad_json"))).await;
}

#[tokio::test]
async fn js1_valid_json_does_not_count_as_a_strike() {
    let packet = |extra: &str| format!(r#"{{"uri":"/distributes","method":"GET","key":99,"x":{extra}}}"#);
    let sound = [
        "[]",
        "{}",
        "[null,1,\"1\",{}]",
        "-0",
        "1E22",
        "1E-2",
        "123e65",
        "0e+1",
        "[123.456789]",
        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
        "\"\\u0123\"",
        "\"\\uD801\\udc37\"",
        "\"\\u0000\"",
        "\"€𝄞\"",
        "\" \"",
        "\"\u{7f}\"",
        "1e400",
        "123456789012345678901234567890",
        "{\"a\":{\"a\":1}}",
        "true",
        " \t\r\n[ ]\n ",
    ];
    let packets: Vec<_> = sound.iter().map(|extra| packet(extra)).collect();
    check(&packets.iter().map(|packet| (packet.as_str(), "")).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn js1_three_strikes_and_out() {
    let cluster = Cluster::start();
    let mut old = cluster.registered("old").await;
    old.send("{¶}¶").await;
    assert_eq!(old.ask(1).await.len(), 1, "two strikes are forgiven, in silence");
    old.send("]¶").await;
    assert_eq!(old.last_packet().await, None, "e17: an empty list with the reason would make it forget its routes");
    let mut stranger = cluster.peer().await;
    stranger.send("{¶}¶]¶").await;
    assert_eq!(stranger.rejection_reason().await, "bad_json");
}

#[tokio::test]
async fn js2_depth_is_refused_before_it_costs_anything() {
    let nested = |depth: usize| {
        format!(r#"{{"uri":"/distributes","method":"GET","key":99,"x":{}{}}}"#, "[".repeat(depth), "]".repeat(depth))
    };
    check(&[
        (&nested(31), ""),
        (&nested(32), "too_deep"),
        (&nested(30_000), "too_deep"),
        (&"[".repeat(60_000), "too_deep"),
    ])
    .await;
}

#[tokio::test]
async fn js3_doubled_members_are_refused() {
    check(&[
        (r#"{"uri":"/distributes","uri":"/x"}"#, "bad_json"),
        (r#"{"uri":"/distributes","\u0075ri":"/x"}"#, "bad_json"),
        (r#"{"uri":"/distributes","method":"POST","params":{"port":1,"name":"a","port":2}}"#, "bad_registration"),
    ])
    .await;
}

#[tokio::test]
async fn js4_keys_come_back_as_they_were_sent() {
    let cluster = Cluster::start();
    let mut peer = cluster.peer().await;
    peer.next_list().await;
    for key in
        ["0", "-0", "9007199254740993", "18446744073709551616", "1e400", "1.50", "\"\"", "\"7\"", "\"\\u00b6\\n가\""]
    {
        peer.send(format!(r#"{{"uri":"/distributes","method":"GET","key":{key}}}¶"#)).await;
        let bytes = String::from_utf8(peer.next_bytes().await).unwrap();
        assert!(bytes.contains(&format!(r#""key":{key},"#)), "{bytes}");
    }
    let mut peer = version_2(&cluster).await;
    for key in ["[]", "{}", "true"] {
        peer.send(format!(r#"{{"uri":"/distributes","method":"GET","key":{key}}}¶"#)).await;
        assert_eq!(peer.next().await.unwrap()["$"]["r"], "bad_json");
        peer = version_2(&cluster).await;
    }
}

#[tokio::test]
async fn js5_names_of_version_2_nodes_are_plain_and_old_names_are_anything() {
    let registration = |name: &str, advert: &str| {
        format!(r#"{{"uri":"/distributes","method":"POST","params":{{"port":1,"name":{name},"urls":[]{advert}}}}}"#)
    };
    for name in [r#""\u0000""#, r#""\ud800""#, r#""a b""#, r#""\u001b[31m""#, r#""한글""#, "7", r#""""#] {
        check(&[(&registration(name, r#","$":{}"#), "bad_name")]).await;
    }
    let cluster = Cluster::start();
    for name in [r#""\u0000""#, r#""\ud800""#, r#""a b\n\u001b[31m""#, r#""한글""#, "7", "null", r#"{"a":1}"#] {
        let mut old = cluster.peer().await;
        old.send(format!("{}¶", registration(name, ""))).await;
        let list = String::from_utf8(old.next_bytes().await).unwrap();
        assert!(list.contains(&format!(r#""name":{name},"#)), "{list}");
    }
}

#[tokio::test]
async fn js6_wrong_types_are_refused() {
    let registration = |params: &str| format!(r#"{{"uri":"/distributes","method":"POST","params":{params},"$":{{}}}}"#);
    for params in ["null", "[]", "\"text\"", "7", r#"{"port":1,"urls":7}"#, r#"{"port":1,"urls":[{}]}"#] {
        check(&[(&registration(params), "bad_registration")]).await;
    }
    check(&[(r#"{"uri":7}"#, "bad_json"), (r#"{"method":[]}"#, "bad_json"), ("[]", "bad_json"), ("null", "bad_json")])
        .await;
}

#[tokio::test]
async fn js7_unknown_packets_are_unsupported_in_version_2_and_ignored_in_version_1() {
    let unknown = [
        r#"{"uri":"/distributes","method":"PUT","key":7}"#,
        r#"{"uri":"/logs","method":"POST","params":"text"}"#,
        r#"{"method":"$event"}"#,
        "{}",
    ];
    check(&unknown.map(|packet| (packet, "unsupported"))).await;
    let cluster = Cluster::start();
    let mut old = cluster.registered("old").await;
    old.send(unknown.map(|packet| format!("{packet}¶")).concat()).await;
    old.send_packet(&json!({ "uri": "/distributes", "method": "GET", "key": 99, "new": { "member": [] } })).await;
    assert_eq!(old.next().await.unwrap()["key"], 99, "the first packet it gets answers the known request");
}

#[tokio::test]
async fn js14_bytes_after_the_packet_spoil_it() {
    let packet = r#"{"uri":"/distributes","method":"POST","params":{"port":1,"name":"n"}}"#;
    check(&[
        (&format!("{packet}x"), "bad_json"),
        (&format!("{packet}{packet}"), "bad_json"),
        (&format!("{packet},"), "bad_json"),
    ])
    .await;
}
