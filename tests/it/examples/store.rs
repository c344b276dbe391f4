//! The store: people sign in, buy and are told, by HTTP through the gateway; and no order is left
//! half done, whichever service is killed, and whenever.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use node_sdk::Node;
use ring::hmac;
use serde_json::{Value, json};
use tests::web_socket::{hear, open_with};
use tests::{Cluster, PATIENCE, Process, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::programs::STORE;

const SERVICES: [&str; 5] = ["members", "goods", "payments", "shipping", "orders"];
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A store whose services are processes, and a node to look into them with.
struct Store {
    gateway: SocketAddr,
    services: HashMap<&'static str, Process>,
    folder: tempfile::TempDir,
    looker: Node,
    cluster: Cluster,
}

/// A response.
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{}: {}", self.head, self.text()))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The value of a field, whose name is in small letters.
    fn header(&self, name: &str) -> &str {
        let line = self
            .head
            .lines()
            .find_map(|line| line.split_once(": ").filter(|(other, _)| other.eq_ignore_ascii_case(name)));
        line.map_or("", |(_, value)| value)
    }
}

/// A request with fields of its own, on a connection of its own; `None` if it is cut.
async fn ask(gateway: SocketAddr, request: &str, fields: &str, body: &[u8]) -> Option<Answer> {
    let mut stream = TcpStream::connect(gateway).await.ok()?;
    let length = body.len();
    let head =
        format!("{request} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {length}\r\n{fields}\r\n");
    stream.write_all(&[head.as_bytes(), body].concat()).await.ok()?;
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().ok()?;
    let at = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let head = String::from_utf8(answer[..at].to_vec()).unwrap();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head, body: answer[at + 4..].to_vec() })
}

impl Store {
    async fn open() -> Self {
        let (cluster, folder) = (Cluster::start(), tempfile::tempdir().unwrap());
        let gateway =
            cluster.gateway_with(gateway::Config { max_body_bytes: 8 << 20, ..gateway::Config::default() }).await;
        let looker = cluster.node(Node::builder("looker")).await;
        let mut store = Self { gateway, services: HashMap::new(), folder, looker, cluster };
        SERVICES.iter().for_each(|name| store.start(name));
        for path in ["/goods", "/session", "/orders", "/payments/webhook"] {
            eventually(path, async || store.ask(&format!("GET {path}"), "", b"").await.status != 404).await;
        }
        let urls = ["PUT/reservations/{order}", "PUT/payments/{order}", "PUT/shipments/{order}"];
        store.looker.peers().wait_for(&urls).await;
        store
    }

    fn start(&mut self, name: &'static str) {
        fs::create_dir_all(self.breakpoint("")).unwrap();
        let (folder, breakpoints) = (self.folder.path().to_str().unwrap(), self.breakpoint(""));
        let environment = [
            ("NODE_DISTRIBUTOR", &*self.cluster.address.to_string()),
            ("STORE_SECRET", SECRET),
            ("STORE_DATA", folder),
            ("STORE_BREAKPOINTS", breakpoints.to_str().unwrap()),
        ];
        self.services.insert(name, Process::start_with(STORE, &[name], &environment));
    }

    fn breakpoint(&self, name: &str) -> PathBuf {
        self.folder.path().join("breakpoints").join(name)
    }

    async fn ask(&self, request: &str, fields: &str, body: &[u8]) -> Answer {
        ask(self.gateway, request, fields, body).await.expect("a response")
    }

    async fn post(&self, request: &str, fields: &str, body: &Value) -> Answer {
        let fields = format!("Content-Type: application/json\r\n{fields}");
        self.ask(request, &fields, body.to_string().as_bytes()).await
    }

    /// Joins and signs in; the fields with the cookie.
    async fn sign_in(&self, name: &str) -> String {
        let person = json!({ "name": name, "password": "a long password" });
        assert_eq!(self.post("POST /members", "", &person).await.status, 201);
        let answer = self.post("POST /session", "", &person).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        let cookie = answer.header("set-cookie");
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
        format!("Cookie: {}\r\n", cookie.split(';').next().unwrap())
    }

    /// What the services know of an order: its reservation, its payment, its shipment.
    async fn parts(&self, order: &Value) -> Vec<Option<String>> {
        let mut parts = Vec::new();
        for what in ["reservations", "payments", "shipments"] {
            let url = format!("GET/{what}/{}", order["id"].as_str().unwrap());
            parts.push(self.looker.peers().call(&url, &()).await.unwrap());
        }
        parts
    }

    async fn stock(&self) -> Value {
        self.ask("GET /goods", "", b"").await.json()[0]["stock"].clone()
    }
}

#[tokio::test]
async fn the_store_signs_in_shows_images_sells_and_tells_pages() {
    let store = Store::open().await;
    let page = store.ask("GET /store", "", b"").await;
    assert!(page.text().starts_with("<!doctype html>"), "{}", page.head);

    // Only the owner adds goods, and only who is signed in buys.
    let (owner, ann) = (store.sign_in("owner").await, store.sign_in("ann").await);
    let wrong = json!({ "name": "ann", "password": "a wrong password" });
    assert_eq!(store.post("POST /session", "", &wrong).await.status, 401);
    let shoes = json!({ "name": "신발", "price": 70, "stock": 10 });
    let forged = ann.replace("Cookie: store=", "Cookie: store=x");
    for (fields, expected) in [("", 401), (&*forged, 401), (&*ann, 403), (&*owner, 201)] {
        assert_eq!(store.post("POST /goods", fields, &shoes).await.status, expected, "{fields}");
    }
    assert_eq!(store.ask("GET /orders", "", b"").await.status, 401);

    // An image goes up and comes down, byte for byte.
    let image: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
    let fields = format!("{owner}Content-Type: image/png\r\n");
    let put = store.ask("PUT /goods/1/image", &fields, &image).await;
    assert_eq!(put.status, 204, "{}", put.text());
    let got = store.ask("GET /goods/1/image", "", b"").await;
    assert!(got.body == image && got.header("content-type") == "image/png", "{}", got.head);
    let tag = format!("If-None-Match: {}\r\n", got.header("etag"));
    let known = store.ask("GET /goods/1/image", &tag, b"").await;
    assert_eq!((known.status, known.body.len()), (304, 0));
    let text = format!("{owner}Content-Type: image/svg+xml\r\n");
    assert_eq!(store.ask("PUT /goods/1/image", &text, b"<svg/>").await.status, 415);
    assert_eq!(store.ask("PUT /goods/1/image", &fields, &vec![0; 8_000_001]).await.status, 413);

    // The page is told of each state, and of the bank's message.
    let cookie = ann.strip_prefix("Cookie: ").unwrap().trim();
    let mut pushed = open_with(store.gateway, "/orders/changes", &[("cookie", cookie)]).await.unwrap();
    assert!(open_with(store.gateway, "/orders/changes", &[]).await.is_err());
    let order = json!({ "good": 1, "count": 2, "card": "5555", "address": "Seoul" });
    let keyed = format!("{ann}Idempotency-Key: first\r\n");
    assert_eq!(store.post("POST /orders", &ann, &order).await.status, 400);
    let sold = store.post("POST /orders", &keyed, &order).await;
    assert_eq!((sold.status, &sold.json()["state"], &sold.json()["total"]), (201, &json!("shipped"), &json!(140)));
    let id = sold.json()["id"].clone();
    for state in ["reserved", "paid", "shipped"] {
        let change = hear(&mut pushed).await;
        assert_eq!((&change["id"], &change["state"]), (&id, &json!(state)));
    }
    // The same key is the same order.
    assert_eq!(store.post("POST /orders", &keyed, &order).await.json()["id"], id);
    assert_eq!(store.stock().await, 8);

    let message = json!({ "order": id }).to_string();
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), message.as_bytes());
    let signature: String = signature.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let wrong = signature.replace(['0', '1'], "2");
    for (signature, body, expected) in [
        ("", message.clone(), 401),
        (&*wrong, message.clone(), 401),
        (&*signature, format!("{message} "), 401),
        (&*signature, message.clone(), 200),
    ] {
        let fields = format!("X-Bank-Signature: {signature}\r\n");
        assert_eq!(store.ask("POST /payments/webhook", &fields, body.as_bytes()).await.status, expected, "{body}");
    }
    let change = hear(&mut pushed).await;
    assert_eq!((&change["id"], &change["is_settled"]), (&id, &json!(true)));

    // Who has signed out is out, although the token is still valid.
    assert_eq!(store.ask("DELETE /session", &ann, b"").await.status, 204);
    assert_eq!(store.ask("GET /orders", &ann, b"").await.status, 401);
}

/// One order, and the service that is killed while the order is at a breakpoint.
struct Crash {
    at: &'static str,
    victim: &'static str,
    card: &'static str,
    address: &'static str,
    state: &'static str,
}

impl Store {
    /// Makes the order, kills the service while the order is at the breakpoint, and starts it
    /// again. Returns the order, of which `number` have been made then, when it has come to an end.
    async fn survive(&mut self, member: &str, number: usize, crash: &Crash) -> Value {
        let Crash { at, victim, card, address, .. } = *crash;
        let reached = self.breakpoint(&format!("{at}.reached"));
        fs::write(self.breakpoint(at), "").unwrap();
        let order = json!({ "good": 1, "count": 1, "card": card, "address": address }).to_string();
        let fields = format!("{member}Content-Type: application/json\r\nIdempotency-Key: {at} {victim} {card}\r\n");
        let gateway = self.gateway;
        let first = tokio::spawn(async move { ask(gateway, "POST /orders", &fields, order.as_bytes()).await });
        eventually(at, async || reached.exists()).await;
        self.services.remove(victim).unwrap().kill().await;
        fs::remove_file(self.breakpoint(at)).unwrap();
        fs::remove_file(reached).unwrap();
        self.start(victim);
        first.abort();
        // Nobody sends it again.
        let mut newest = Value::Null;
        eventually("the order ends", async || {
            let answer = ask(gateway, "GET /orders", member, b"").await;
            let orders = answer.filter(|answer| answer.status == 200).map_or(Value::Null, |answer| answer.json());
            newest = orders[0].clone();
            ["shipped", "cancelled"].iter().any(|end| newest["state"] == *end)
                && orders.as_array().is_some_and(|orders| orders.len() == number)
        })
        .await;
        newest
    }
}

#[tokio::test]
async fn no_order_is_left_half_done_whatever_is_killed() {
    let mut store = Store::open().await;
    let (owner, ann) = (store.sign_in("owner").await, store.sign_in("ann").await);
    let shoes = json!({ "name": "shoes", "price": 70, "stock": 100 });
    assert_eq!(store.post("POST /goods", &owner, &shoes).await.status, 201);
    // Where it is held, who works there, the address, and how it ends: at `nowhere` it is paid, and
    // cannot be shipped.
    let held = [
        ("reserve.before", "goods", "Seoul", "shipped"),
        ("reserve.after", "goods", "Seoul", "shipped"),
        ("pay.before", "payments", "Seoul", "shipped"),
        ("pay.after", "payments", "Seoul", "shipped"),
        ("ship.before", "shipping", "Seoul", "shipped"),
        ("ship.after", "shipping", "Seoul", "shipped"),
        ("recall.before", "shipping", "nowhere", "cancelled"),
        ("recall.after", "shipping", "nowhere", "cancelled"),
        ("refund.before", "payments", "nowhere", "cancelled"),
        ("refund.after", "payments", "nowhere", "cancelled"),
        ("release.before", "goods", "nowhere", "cancelled"),
        ("release.after", "goods", "nowhere", "cancelled"),
    ];
    let mut crashes = Vec::new();
    for (at, service, address, state) in held {
        crashes.extend([service, "orders"].map(|victim| Crash { at, victim, card: "5555", address, state }));
    }
    // It is reserved, and the card is declined.
    crashes.push(Crash { at: "release.before", victim: "goods", card: "4000", address: "Seoul", state: "cancelled" });
    let mut sold = 0;
    for (number, crash) in (1..).zip(&crashes) {
        let order = store.survive(&ann, number, crash).await;
        let what = format!("{} of {} with {}: {order}", crash.at, crash.victim, crash.card);
        assert_eq!(order["state"], crash.state, "{what}");
        // What was refused was undone all the same: an earlier attempt might have been carried out.
        let expected = match (crash.state, crash.card) {
            ("shipped", _) => [Some("held"), Some("paid"), Some("shipped")],
            (_, "4000") => [Some("released"), Some("refunded"), None],
            _ => [Some("released"), Some("refunded"), Some("recalled")],
        };
        let parts = store.parts(&order).await;
        assert_eq!(parts.iter().map(Option::as_deref).collect::<Vec<_>>(), expected, "{what}");
        sold += u64::from(crash.state == "shipped");
        assert_eq!(store.stock().await, 100 - sold, "{what}");
    }
}
