//! Frames on the registry port: in pieces, too long, broken, or too many.

use std::time::Duration;

use distributor::Config;
use tests::{Cluster, Peer};

const REGISTRATION: &str = r#"{"uri":"/distributes","method":"POST","key":0,"params":{"port":9010,"name":"NAME","urls":["GET/가능/\u00b6"]}}¶"#;

#[tokio::test]
async fn fr1_fr2_a_packet_may_be_split_anywhere() {
    let cluster = Cluster::start();
    let bytes = REGISTRATION.as_bytes();
    let mut peers = Vec::new();
    for at in 1..bytes.len() {
        let mut peer = cluster.peer().await;
        peer.send(&bytes[..at]).await;
        peers.push((peer, at));
    }
    for (peer, at) in &mut peers {
        peer.send(&bytes[*at..]).await;
    }
    for (mut peer, _) in peers {
        peer.list_with("NAME").await;
    }
}

#[tokio::test]
async fn fr3_a_thousand_packets_in_one_segment_are_answered_in_order() {
    let cluster = Cluster::start();
    let mut peer = cluster.peer().await;
    peer.next_list().await;
    let questions: String =
        (1..=1000).map(|key| format!(r#"{{"uri":"/distributes","method":"GET","key":{key}}}¶"#)).collect();
    peer.send(questions).await;
    for key in 1..=1000 {
        assert_eq!(peer.next().await.unwrap()["key"], key);
    }
}

#[tokio::test]
async fn fr4_empty_frames_are_skipped_up_to_a_rate() {
    let cluster = Cluster::start();
    let mut peer = cluster.peer().await;
    peer.send("¶¶ \r\n¶").await;
    peer.ask(1).await;
    peer.send("¶".repeat(1001)).await;
    assert_eq!(peer.rejection_reason().await, "too_many_empty_frames");
}

#[tokio::test]
async fn fr5_endless_bytes_without_a_delimiter_are_cut_and_delay_no_peer() {
    let cluster = Cluster::start();
    let mut bystander = cluster.registered("bystander").await;
    let mut peer = cluster.registered("endless").await;
    bystander.list_with("endless").await;
    peer.send("x".repeat(10 << 20)).await;
    assert_eq!(bystander.next_list().await, ["bystander"]);
    assert_eq!(peer.last_packet().await, None, "e17: an empty list with the reason would make it forget its routes");
}

#[tokio::test]
async fn fr6_a_frame_must_end_in_time() {
    let cluster = Cluster::with(Config { frame_timeout: Duration::from_millis(200), ..Config::default() });
    let mut idle = cluster.registered("idle").await;
    let mut peer = cluster.registered("slow").await;
    idle.list_with("slow").await;
    let drip = async {
        loop {
            peer.send("x").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        names = idle.list_without("slow") => assert_eq!(names, ["idle"], "idle peers, and line ends, are left alone"),
        () = drip => unreachable!(),
    }
    assert_eq!(peer.last_packet().await, None, "e17: an empty list with the reason would make it forget its routes");
    idle.send("\r\n").await;
    idle.ask(1).await;
}

/// Sends bytes, which are answered by a cut for this reason. A bystander is not affected.
async fn check_cut(bytes: &[u8], reason: &str) {
    let cluster = Cluster::with(Config { frame_timeout: Duration::from_millis(300), ..Config::default() });
    let mut bystander = cluster.registered("bystander").await;
    let mut peer = cluster.peer().await;
    peer.send(bytes).await;
    assert_eq!(peer.rejection_reason().await, reason, "{}", String::from_utf8_lossy(bytes));
    bystander.register("bystander", 2).await;
    assert_eq!(bystander.next_list().await, ["bystander"], "the first thing it hears is its own change");
}

#[tokio::test]
async fn fr7_bytes_that_are_not_utf_8_are_cut() {
    for bytes in [&b"{\"uri\":\"\xff\"}\xC2\xB6"[..], b"{\"a\":\"\xb6\"}\xC2\xB6", b"{\"a\":\"\xc0\xaf\"}\xC2\xB6"] {
        check_cut(bytes, "bad_encoding").await;
    }
}

#[tokio::test]
async fn fr8_a_delimiter_inside_a_name_does_no_harm_unless_it_shows_version_2() {
    let cluster = Cluster::start();
    let mut bystander = cluster.registered("bystander").await;
    let mut peer = cluster.peer().await;
    peer.send(r#"{"uri":"/distributes","method":"POST","key":0,"params":{"port":1,"name":"a¶b","urls":[]}}¶"#).await;
    assert_eq!(bystander.next_list().await, ["bystander", "a¶b"]);
    peer.register("sound", 1).await;
    assert_eq!(bystander.next_list().await, ["bystander", "sound"]);
    let mut ours = cluster.peer().await;
    ours.send(r#"{"uri":"/x","$":{}}¶{"uri":"/distributes","method":"POST","params":{"port":1,"name":"a¶b"}}¶"#).await;
    ours.register("last", 1).await;
    assert_eq!(bystander.next_list().await, ["bystander", "sound", "last"], "that packet is lost");
}

#[tokio::test]
async fn fr9_an_escaped_delimiter_stays_escaped() {
    let cluster = Cluster::start();
    let mut bystander = cluster.registered("bystander").await;
    let mut peer = cluster.peer().await;
    peer.send(r#"{"uri":"/distributes","method":"POST","key":0,"params":{"port":1,"name":"a\u00b6b","urls":["GET/\u00B6"]}}¶"#)
        .await;
    let bytes = bystander.next_bytes().await;
    let text = String::from_utf8(bytes).unwrap();
    assert_eq!(text.matches('¶').count(), 1, "{text}");
    assert!(text.contains(r#""name":"a\u00b6b""#) && text.contains(r#""GET/"#), "{text}");
}

#[tokio::test]
async fn fr10_other_protocols_are_cut_by_name() {
    check_cut(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "wrong_protocol").await;
    check_cut(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "wrong_protocol").await;
    check_cut(b"SSH-2.0-OpenSSH_9.2\r\n", "wrong_protocol").await;
    check_cut(&[0x55; 4096], "frame_timeout").await;
}

/// How a registered node disconnects within a packet.
async fn check_leaves_once(go: impl FnOnce(Peer)) {
    let cluster = Cluster::start();
    let mut bystander = cluster.registered("bystander").await;
    let mut peer = cluster.registered("half").await;
    assert_eq!(bystander.next_list().await, ["bystander", "half"]);
    peer.send(&REGISTRATION.as_bytes()[..70]).await;
    go(peer);
    assert_eq!(bystander.next_list().await, ["bystander"]);
    bystander.register("again", 1).await;
    assert_eq!(bystander.next_list().await, ["again"], "nothing was told twice");
}

#[tokio::test]
async fn fr11_a_fin_within_a_packet_is_one_leave() {
    check_leaves_once(Peer::close).await;
}

#[tokio::test]
async fn fr12_a_reset_within_a_packet_is_one_leave() {
    check_leaves_once(Peer::reset).await;
}

#[tokio::test]
async fn fr13_the_frame_limit_is_exact() {
    let cluster = Cluster::start();
    for (bytes, fits) in [(65_535, true), (65_536, true), (65_537, false)] {
        let mut peer = cluster.peer().await;
        peer.next_list().await;
        let packet = |padding: &str| format!(r#"{{"uri":"/distributes","method":"GET","key":1,"x":"{padding}"}}"#);
        let padding = "x".repeat(bytes - packet("").len());
        peer.send(format!("{}¶", packet(&padding))).await;
        let answer = peer.next().await.unwrap();
        assert_eq!((answer["key"] == 1, answer["$"]["r"] == "frame_too_large"), (fits, !fits), "{bytes}");
    }
}

#[tokio::test]
async fn fr15_an_unfinished_packet_does_not_affect_the_next_connection() {
    let cluster = Cluster::start();
    let mut first = Peer::connect_from_own_port(cluster.address).await;
    let port = first.port();
    first.send(&REGISTRATION.as_bytes()[..70]).await;
    first.reset();
    let mut second = Peer::connect_from(port, cluster.address).await;
    second.register("second", 1).await;
    second.list_with("second").await;
}

#[tokio::test]
async fn fr17_a_peer_that_does_not_read_cannot_delay_its_own_end() {
    let cluster = Cluster::start();
    let mut bystander = cluster.registered("bystander").await;
    let mut peer = Peer::connect_narrow(cluster.address).await;
    peer.register("deaf", 1).await;
    bystander.list_with("deaf").await;
    peer.send("]¶]¶]¶").await;
    assert_eq!(bystander.next_list().await, ["bystander"]);
    drop(peer);
}

#[tokio::test]
async fn fr18_numbers_at_the_edges() {
    let cluster = Cluster::start();
    let mut peer = cluster.peer().await;
    for port in ["0", "-1", "65536", "1e2", "99999999999999999999999", "1.5", "\"65536\"", "null"] {
        peer.send(format!(r#"{{"uri":"/distributes","method":"POST","params":{{"port":{port},"name":"n"}}}}¶"#)).await;
    }
    assert!(peer.ask(u64::MAX).await.is_empty(), "none of these is a port");
    peer.send(r#"{"uri":"/distributes","method":"POST","params":{"port":65535,"name":"n"}}¶"#).await;
    peer.list_with("n").await;
}
