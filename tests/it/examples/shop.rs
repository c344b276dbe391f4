//! The example shop, used as a person would.

use serde_json::json;
use tests::{Cluster, HttpClient, Process, Terminal, eventually, request};

use crate::programs::{GATEWAY, GOODS, SHOP};

/// Arguments of a shop at ports that the system chooses.
const ANYWHERE: [&str; 4] = ["--listen", "127.0.0.1:0", "--distributor", "127.0.0.1:0"];

#[tokio::test]
async fn the_shop_opens_sells_refuses_and_closes() {
    let shop = Process::start(SHOP, &[&ANYWHERE, &["--admin", "off", "--instances", "2"][..]].concat());
    let line = shop.line("gateway      http://").await;
    let gateway = line.rsplit_once("http://").unwrap().1.parse().unwrap();
    shop.line("Ctrl-C closes it.").await;
    for (method, path, body, status, expected) in [
        (
            "POST",
            "/members",
            r#"{"username":"홍길동","password":"열려라 참깨"}"#,
            201,
            json!({ "id": 1, "username": "홍길동" }),
        ),
        ("POST", "/members", r#"{"username":"홍길동","password":"x"}"#, 409, json!("username_taken")),
        (
            "POST",
            "/members/login",
            r#"{"username":"홍길동","password":"열려라 참깨"}"#,
            200,
            json!({ "id": 1, "username": "홍길동" }),
        ),
        ("POST", "/members/login", r#"{"username":"홍길동","password":"wrong"}"#, 401, json!("wrong_credentials")),
        (
            "POST",
            "/goods",
            r#"{"name":"사과","category":"과일","price":1200}"#,
            201,
            json!({ "id": 1, "name": "사과", "category": "과일", "price": 1200, "description": "", "sold": 0 }),
        ),
        ("POST", "/goods", r#"{"name":"사과"}"#, 400, json!("bad_params")),
        ("POST", "/purchases", r#"{"member":99,"good":1}"#, 422, json!("unknown_member")),
        ("POST", "/purchases", r#"{"member":1,"good":99}"#, 422, json!("unknown_good")),
        ("GET", "/purchases?member=1", "", 200, json!([])),
        ("GET", "/goods/7", "", 404, json!("no_good")),
        ("GET", "/goods/export", "", 406, json!("stream")),
        ("GET", "/nothing", "", 404, json!("no_route")),
        ("POST", "/goods", "{", 400, json!("bad_json")),
    ] {
        let response = request(gateway, method, path, body).await;
        let seen = if status < 300 { response.json() } else { json!(response.problem()) };
        assert_eq!((response.status, seen), (status, expected), "{method} {path} {body}");
    }
    // Both instances of each service see what either of them stored.
    let mut client = HttpClient::connect(gateway).await;
    for number in 1..=10 {
        let bought = client.request("POST", "/purchases", r#"{"member":1,"good":1}"#).await.unwrap().json();
        assert_eq!((&bought["id"], &bought["price"]), (&json!(number), &json!(1200)));
        let listed = client.request("GET", "/purchases", "").await.unwrap().json();
        assert_eq!(listed.as_array().unwrap().len(), number);
    }
    // Goods learn of sales by events, which no caller waits for.
    eventually("the sales are counted", async || request(gateway, "GET", "/goods/1", "").await.json()["sold"] == 10)
        .await;
    assert_eq!(request(gateway, "GET", "/purchases/report", "").await.json(), json!({ "과일": 12_000 }));
    drop(client);
    assert_eq!(shop.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn c14_the_shop_prints_where_operators_ask_and_they_are_answered() {
    let arguments = [&ANYWHERE, &["--admin", "127.0.0.1:0", "--instances", "1"][..]].concat();
    let shop = Process::start(SHOP, &arguments);
    let line = shop.line("/metrics").await;
    let admin = line.trim().strip_prefix("curl -s ").unwrap().split('/').next().unwrap().to_owned();
    let metrics = request(admin.parse().unwrap(), "GET", "/metrics", "").await;
    assert!(metrics.status == 200 && metrics.body.contains("gateway_"), "{metrics:?}");
    let mut routes = Process::start(GATEWAY, &["routes", "--admin", &admin]);
    routes.line("  GET/goods/{id}").await;
    // An event is not a request.
    routes.line("No request: events").await;
    assert_eq!(routes.ended().await.code(), Some(0));
    assert!(!routes.output().contains("EVENT"), "{}", routes.output());
    assert_eq!(shop.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn c16_a_folder_or_database_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "no database, but a text that is longer than the head of one").unwrap();
    let below = file.join("below");
    let data = [&ANYWHERE, &["--admin", "off", "--data", below.to_str().unwrap()][..]].concat();
    for (program, arguments, path) in [(SHOP, data, &below), (GOODS, vec!["--database", file.to_str().unwrap()], &file)]
    {
        let mut process = Process::start(program, &arguments);
        assert_eq!(process.ended().await.code(), Some(1));
        process.line(&path.display().to_string()).await;
    }
}

#[tokio::test]
async fn c16_the_shop_outlives_a_reader_of_its_first_line_and_says_that_it_closes() {
    let line = format!("{SHOP} {} --admin off --instances 1 2>&1 | head -1", ANYWHERE.join(" "));
    let mut head = Process::start("sh", &["-c", &format!("exec timeout -s INT 8 sh -c '{line}'")]);
    head.line("The shop is open.").await;
    head.ended().await;
    assert!(!head.output().contains("panicked"), "{}", head.output());

    let terminal = Terminal::open();
    let arguments = [&ANYWHERE, &["--admin", "off", "--instances", "1"][..]].concat();
    let mut shop = terminal.command(SHOP, &arguments).spawn().unwrap();
    eventually("it is open", async || terminal.shown().contains("Ctrl-C closes it.")).await;
    terminal.press("\x03");
    eventually("it says so", async || terminal.shown().contains("Closing: ")).await;
    eventually("it ends", async || shop.try_wait().unwrap().is_some()).await;
    eventually("it is closed", async || terminal.shown().contains("\nClosed.")).await;
}

#[tokio::test]
async fn a_service_of_its_own_joins_a_cluster() {
    let cluster = Cluster::start();
    let service = Process::start(GOODS, &["--distributor", &cluster.address.to_string()]);
    service.line("connected").await;
    let gateway = cluster.gateway().await;
    assert_eq!(Cluster::wait_routed(gateway, "/goods").await.json(), json!([]));
    assert_eq!(service.terminate().await.code(), Some(0));
}
