//! The services in plain JavaScript, and a version 1 service with one changed line.

use std::net::SocketAddr;

use node_sdk::{CallError, Node};
use serde_json::{Value, json};
use tests::{
    Cluster, PATIENCE, Peer, Process, eventually, goods, goods_of_version, js_file, legacy_peers_can_run, patient,
    pick_port, request,
};

#[tokio::test]
async fn the_javascript_files_pass_their_own_tests() {
    if !legacy_peers_can_run() {
        return;
    }
    // Releases of Node.js differ in what `--test` takes a folder for.
    let files = std::fs::read_dir(js_file("test/")).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<String> = files.filter_map(|file| file.to_str().map(str::to_owned)).collect();
    let tests = files.iter().map(String::as_str).filter(|file| file.ends_with(".test.js"));
    let mut tests = Process::start("node", &["--test"].into_iter().chain(tests).collect::<Vec<_>>());
    // Some tests wait for time-outs of 10 s.
    assert_eq!(tests.ended_within(4 * PATIENCE).await.code(), Some(0), "{}", tests.output());
}

#[tokio::test]
async fn an_old_service_with_one_line_changed_serves_callers_of_every_age() {
    if !legacy_peers_can_run() {
        return;
    }
    let cluster = Cluster::start();
    let gateway = cluster.gateway().await;
    let (service, port) = goods(cluster.address).await;
    let entries = cluster.peer().await.ask(1).await;
    let entry = entries.iter().find(|entry| entry["name"] == "goods").unwrap();
    assert_eq!((&entry["port"], &entry["$"]["v"]), (&json!(port), &json!(2)));

    // A node of ours.
    let caller = cluster.node(Node::builder("caller")).await;
    caller.peers().wait_for(&["GET/goods"]).await;
    let nothing = caller.peers().call::<Value>("GET/goods", &()).await.unwrap_err();
    let CallError::Refused { status: 500, reason, message, .. } = nothing else { panic!("{nothing:?}") };
    assert_eq!((reason.as_str(), message.as_str()), ("errorcode_1", "no data"));
    let stored: Value = caller.peers().call("POST/goods", &json!({ "name": "사과 ¶" })).await.unwrap();
    assert_eq!(stored, json!([{ "name": "사과 ¶" }]));

    // A version 1 caller: in pieces, and with a key beyond JavaScript's integers.
    let mut old = Peer::connect(([127, 0, 0, 1], port).into()).await;
    let call = r#"{"uri":"/goods","method":"GET","params":{"key":9007199254740993}}¶"#;
    for byte in call.as_bytes() {
        old.send([*byte]).await;
    }
    let answer =
        r#"{"key":9007199254740993,"errorcode":0,"errormessage":"success","results":[{"name":"사과 \u00b6"}]}¶"#;
    assert_eq!(String::from_utf8(old.next_bytes().await).unwrap(), answer);
    old.send(r#"{"uri":"/goods","method":"PATCH","params":{"key":1}}¶"#).await;
    assert_eq!(old.next().await.unwrap()["errorcode"], 501, "and not a null without a key");

    // A person with a browser.
    assert_eq!(Cluster::wait_routed(gateway, "/goods").await.json(), json!([{ "name": "사과 ¶" }]));
    assert_eq!(request(gateway, "DELETE", "/goods", "").await.json(), json!([]));

    drop(old);
    assert_eq!(service.terminate().await.code(), Some(0));
    let mut observer = cluster.peer().await;
    eventually("it has left", async || observer.ask(1).await.iter().all(|entry| entry["name"] != "goods")).await;
}

#[tokio::test]
async fn it_registers_again_after_a_restart_of_the_distributor() {
    if !legacy_peers_can_run() {
        return;
    }
    let address = ([127, 0, 0, 1], pick_port()).into();
    let cluster = Cluster::on(address, patient());
    let (mut service, port) = goods(cluster.address).await;
    let caller = cluster.node(Node::builder("caller")).await;
    caller.peers().wait_for(&["GET/goods"]).await;
    cluster.stop().await;
    service.line("no connection to distributor").await;
    let stored: Value = caller.peers().call("POST/goods", &json!({ "n": 1 })).await.unwrap();
    assert_eq!(stored, json!([{ "n": 1 }]), "calls need no Distributor");
    let cluster = Cluster::on(address, patient());
    let mut observer = cluster.peer().await;
    eventually("it is registered again", async || observer.ask(1).await.iter().any(|entry| entry["port"] == port))
        .await;
    assert!(service.is_running(), "{}", service.output());
}

#[tokio::test]
async fn it_keeps_serving_old_callers() {
    if !legacy_peers_can_run() {
        return;
    }
    for family in ["buffering", "strict"] {
        let distributor = Process::legacy("distributor", &["--port", "0", "--family", family]);
        let number = distributor.port().await.to_string();
        let arguments = ["--port", "0", "--distributor", &number, "--family", family, "--connect-delay", "50"];
        let gateway = Process::legacy("gateway", &arguments);
        let address = |port: u16| SocketAddr::new("127.0.0.1".parse().unwrap(), port);
        let (service, _) = goods(address(distributor.port().await)).await;
        let at = address(gateway.port().await);
        eventually("it is routed", async || request(at, "DELETE", "/goods", "").await.status == 200).await;
        for (method, body, expected) in [
            ("GET", "", json!({ "errorcode": 1, "errormessage": "no data" })),
            (
                "POST",
                r#"{"name":"사과"}"#,
                json!({ "errorcode": 0, "errormessage": "success", "results": [{ "name": "사과" }] }),
            ),
            ("GET", "", json!({ "errorcode": 0, "errormessage": "success", "results": [{ "name": "사과" }] })),
        ] {
            let mut answer = request(at, method, "/goods", body).await.json();
            assert!(answer.as_object_mut().unwrap().remove("key").is_some(), "the whole packet, its key included");
            assert_eq!(answer, expected, "{method}");
        }
        for mut process in [distributor, gateway, service] {
            assert!(process.is_running(), "{}", process.output());
        }
    }
}

#[tokio::test]
async fn e7_public_answers_stay_the_same_when_one_line_changes() {
    if !legacy_peers_can_run() {
        return;
    }
    let cluster = Cluster::start();
    let gateway = cluster.gateway().await;
    let (service, port) = goods_of_version(cluster.address, 1).await;
    let entries = cluster.peer().await.ask(1).await;
    let entry = entries.iter().find(|entry| entry["name"] == "goods").unwrap();
    assert_eq!((&entry["port"], entry.get("$")), (&json!(port), None));
    Cluster::wait_routed(gateway, "/goods").await;
    for (method, body, expected) in [
        ("GET", "", json!({ "errorcode": 1, "errormessage": "no data" })),
        (
            "POST",
            r#"{"name":"a¶"}"#,
            json!({ "errorcode": 0, "errormessage": "success", "results": [{ "name": "a¶" }] }),
        ),
        ("DELETE", "", json!({ "errorcode": 0, "errormessage": "success", "results": [] })),
    ] {
        let mut answer = request(gateway, method, "/goods", body).await.json();
        assert!(answer.as_object_mut().unwrap().remove("key").is_some(), "the whole packet, its key included");
        assert_eq!(answer, expected, "{method}");
    }
    assert_eq!(service.terminate().await.code(), Some(0));
}
