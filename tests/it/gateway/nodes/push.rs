//! Held sockets, and pushes to them: two nodes behind two gateways.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use gateway::Config;
use node_sdk::{
    Closed, Node, NodeBuilder, Params, Path, Peers, PushError, ServiceError, Session, Sockets, State, Welcome,
};
use serde_json::{Value, json};
use tests::web_socket::{Client, closed, hear, open, open_with, say};
use tests::{Cluster, EventSource, PATIENCE, eventually, request};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

/// What the handlers of `close` were told: the session, and the code.
type Ends = Mutex<Vec<(String, u16)>>;

#[derive(serde::Deserialize)]
struct Guest {
    name: String,
}

/// Lets clients into all rooms but `closed`, and tells the client its session.
async fn enter(
    Path(room): Path<String>,
    Params(guest): Params<Guest>,
    session: Session,
) -> Result<Welcome<Value>, ServiceError> {
    if room == "closed" {
        return Err(ServiceError::new(403, "room_closed", "this room is closed"));
    }
    assert_eq!(session.user(), None);
    Ok(Welcome::new().user(guest.name).group(room).messages([json!({ "session": session.id() })]))
}

/// Does what the client says: see the arms.
async fn hear_of(
    Path(room): Path<String>,
    Params(said): Params<Value>,
    session: Session,
    peers: Peers,
) -> Result<Value, ServiceError> {
    if let Some(text) = said.get("all") {
        return Ok(json!({ "reached": peers.push_group(&room, text).await? }));
    }
    if let Some(group) = said["join"].as_str() {
        peers.join_group(&session, group).await?;
        return Ok(json!("joined"));
    }
    if let Some(group) = said["leave"].as_str() {
        peers.leave_group(&session, group).await?;
        return Ok(json!("left"));
    }
    match said.as_str() {
        Some("silent") => Ok(Value::Null),
        Some("fail") => Err(ServiceError::conflict("too_loud", "too loud")),
        Some("close") => {
            peers.close_session(&session, 4000, "as you wish").await?;
            Ok(json!("bye"))
        }
        _ => Ok(json!({ "said": said, "by": session.user() })),
    }
}

async fn left(Params(end): Params<Closed>, session: Session, ends: State<Ends>) -> Result<(), ServiceError> {
    ends.lock().unwrap().push((session.id().to_owned(), end.code));
    Ok(())
}

fn sockets() -> Sockets {
    Sockets::open(enter).message(hear_of).close(left)
}

fn live(ends: &Arc<Ends>) -> NodeBuilder {
    Node::builder("live")
        .shared_state(Arc::clone(ends))
        .public_routes()
        .sockets("GET/live/{room}", sockets())
        .sockets("GET/kept/{room}", sockets().resume(Duration::from_secs(60)))
        .sockets("GET/briefly/{room}", sockets().resume(Duration::from_secs(1)))
        .sockets("GET/lossy/{room}", sockets().drop_oldest())
        .route("GET/plain", async || Ok::<_, ServiceError>(7_u64))
}

struct Scene {
    cluster: Cluster,
    nodes: [Node; 2],
    gateways: [SocketAddr; 2],
    ends: Arc<Ends>,
}

impl Scene {
    async fn start() -> Self {
        let (cluster, ends) = (Cluster::start(), Arc::<Ends>::default());
        let nodes = [cluster.node(live(&ends)).await, cluster.node(live(&ends)).await];
        let gateways = [cluster.gateway().await, cluster.gateway().await];
        for gateway in gateways {
            Cluster::wait_routed(gateway, "/plain").await;
        }
        Self { cluster, nodes, gateways, ends }
    }

    /// Clients `a` and `b` at one gateway each, in one room; all nodes reach both.
    async fn pair(&self, route: &str) -> [(Client, String); 2] {
        let [a, b] = self.gateways;
        let pair = [enter_as(a, route, "a").await, enter_as(b, route, "b").await];
        let room = route.rsplit('/').next().unwrap();
        for node in &self.nodes {
            eventually("a node reaches both gateways", async || node.peers().present(room).await.len() == 2).await;
        }
        pair
    }

    async fn ended(&self, session: &str, code: u16) {
        let end = (session.to_owned(), code);
        eventually("a node is told of the end", async || self.ends.lock().unwrap().contains(&end)).await;
        assert_eq!(self.ends.lock().unwrap().iter().filter(|(other, _)| *other == session).count(), 1);
    }
}

/// Opens a socket, and returns its session.
async fn enter_as(gateway: SocketAddr, route: &str, name: &str) -> (Client, String) {
    let mut client = open(gateway, &format!("{route}?name={name}")).await;
    let session = hear(&mut client).await["session"].as_str().unwrap().to_owned();
    (client, session)
}

#[tokio::test]
async fn a_node_reaches_clients_by_session_user_and_group_on_any_gateway() {
    let scene = Scene::start().await;
    let [(mut a, session_a), (mut b, session_b)] = scene.pair("/live/hall").await;
    for node in &scene.nodes {
        let peers = node.peers();
        peers.push(&session_a, &json!({ "to": "a" })).await.unwrap();
        peers.push(&session_b, &json!([1, "¶"])).await.unwrap();
        assert_eq!((hear(&mut a).await, hear(&mut b).await), (json!({ "to": "a" }), json!([1, "¶"])));
        assert_eq!(peers.push_user("a", &1).await.unwrap(), 1);
        assert_eq!(peers.push_user("nobody", &1).await.unwrap(), 0);
        assert_eq!(peers.push_group("hall", &2).await.unwrap(), 2);
        assert_eq!((hear(&mut a).await, hear(&mut a).await, hear(&mut b).await), (json!(1), json!(2), json!(2)));
    }
    // What one says reaches all, and the answer the one.
    say(&mut a, &json!({ "all": "hello" })).await;
    assert_eq!(hear(&mut b).await, "hello");
    let heard = [hear(&mut a).await, hear(&mut a).await];
    assert!(heard.contains(&json!("hello")) && heard.contains(&json!({ "reached": 2 })), "{heard:?}");
    let peers = scene.nodes[0].peers();
    let mut users: Vec<_> = peers.present("hall").await.into_iter().map(|one| one.user.unwrap()).collect();
    users.sort_unstable();
    assert_eq!(users, ["a", "b"]);
    // Groups are joined and left.
    say(&mut b, &json!({ "join": "vip" })).await;
    assert_eq!(hear(&mut b).await, "joined");
    assert_eq!(peers.push_group("vip", &3).await.unwrap(), 1);
    assert_eq!(hear(&mut b).await, 3);
    say(&mut b, &json!({ "leave": "vip" })).await;
    assert_eq!(hear(&mut b).await, "left");
    assert_eq!((peers.push_group("vip", &3).await.unwrap(), peers.present("vip").await.len()), (0, 0));
    // A client that has gone is not reached.
    a.close(Some(CloseFrame { code: 1000.into(), reason: "".into() })).await.unwrap();
    scene.ended(&session_a, 1000).await;
    let gone = peers.push(&session_a, &1).await;
    assert!(matches!(gone, Err(PushError::Ended { .. })), "{gone:?}");
    let unknown = peers.push("no.session", &1).await;
    assert!(matches!(unknown, Err(PushError::NoGateway { .. })), "{unknown:?}");
    let large = peers.push(&session_b, &"x".repeat(1 << 20)).await;
    assert!(matches!(large, Err(PushError::TooLarge { .. })), "{large:?}");
}

#[tokio::test]
async fn a_socket_that_is_not_accepted_is_answered_as_a_request() {
    let scene = Scene::start().await;
    let gateway = scene.gateways[0];
    let check = async |path: &str, fields: &[(&'static str, &str)], expected: (u16, &str)| {
        let Err(Error::Http(response)) = open_with(gateway, path, fields).await else { panic!("{path} was opened") };
        let problem: Value = serde_json::from_slice(response.body().as_ref().unwrap()).unwrap();
        let word = problem["type"].as_str().unwrap().trim_start_matches("/problems/");
        assert_eq!((response.status().as_u16(), word), expected, "{path} {fields:?}");
    };
    check("/live/closed?name=a", &[], (403, "room_closed")).await;
    check("/live/hall", &[], (400, "bad_params")).await;
    check("/live/hall?name=a", &[("origin", "https://evil.test")], (403, "foreign_origin")).await;
    let plain = request(gateway, "GET", "/live/hall?name=a", "").await;
    assert_eq!(plain.status, 426);
    // A node that calls the route is no client.
    let called = scene.nodes[0].peers().call::<Value>("GET/live/hall", &json!({ "name": "a" })).await;
    assert!(called.unwrap_err().to_string().contains("no_socket"));
}

#[tokio::test]
async fn messages_are_handled_in_order_and_errors_close_the_socket() {
    let scene = Scene::start().await;
    let (mut client, session) = enter_as(scene.gateways[0], "/live/hall", "a").await;
    for number in 0..50 {
        say(&mut client, &json!(number)).await;
    }
    for number in 0..50 {
        assert_eq!(hear(&mut client).await, json!({ "said": number, "by": "a" }));
    }
    say(&mut client, &json!("silent")).await;
    say(&mut client, &json!("fail")).await;
    assert_eq!(closed(&mut client).await, (4409, "too_loud".to_owned()));
    scene.ended(&session, 4409).await;

    let (mut client, session) = enter_as(scene.gateways[0], "/live/hall", "a").await;
    eventually("its node can push", async || !scene.nodes[1].peers().present("hall").await.is_empty()).await;
    say(&mut client, &json!("close")).await;
    assert_eq!(closed(&mut client).await, (4000, "as you wish".to_owned()));
    scene.ended(&session, 4000).await;

    let (mut client, session) = enter_as(scene.gateways[0], "/live/hall", "a").await;
    client.send(Message::text("{a}")).await.unwrap();
    assert_eq!(closed(&mut client).await.0, 1007);
    scene.ended(&session, 1007).await;

    // One that vanishes.
    let (client, session) = enter_as(scene.gateways[0], "/live/hall", "a").await;
    drop(client);
    scene.ended(&session, 1006).await;
}

#[tokio::test]
async fn pu1_nodes_come_and_go_and_sockets_stay() {
    let scene = Scene::start().await;
    let [(mut a, session_a), (mut b, _)] = scene.pair("/live/hall").await;
    let Scene { nodes: [first, second], cluster, ends, gateways } = scene;
    drop(first);
    // A message that was on its way to the node is lost, and its client is told so.
    eventually("messages go to the other node", async || {
        let (mut other, _) = enter_as(gateways[0], "/live/other", "c").await;
        say(&mut other, &json!("there?")).await;
        matches!(other.next().await, Some(Ok(Message::Text(_))))
    })
    .await;
    for _ in 0..5 {
        say(&mut a, &json!("still there?")).await;
        assert_eq!(hear(&mut a).await["by"], "a");
    }
    assert_eq!(second.peers().push_group("hall", &1).await.unwrap(), 2);
    assert_eq!((hear(&mut a).await, hear(&mut b).await), (json!(1), json!(1)));
    // The last one goes, and another one comes.
    second.stop().await;
    let third = cluster.node(live(&ends)).await;
    eventually("the new node reaches all", async || third.peers().push_group("hall", &2).await.unwrap() == 2).await;
    while hear(&mut b).await != 2 {}
    third.peers().push(&session_a, &3).await.unwrap();
    while hear(&mut a).await != 3 {}
}

#[tokio::test]
async fn pu2_a_gateway_that_stops_closes_its_sockets_and_others_stay() {
    let scene = Scene::start().await;
    let (mut stays, _) = enter_as(scene.gateways[0], "/live/hall", "a").await;
    let listener = net::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    let config = Config {
        distributor: scene.cluster.address.to_string(),
        drain_timeout: Duration::from_secs(2),
        ..Config::default()
    };
    let gateway = tokio::spawn(gateway::serve(listener, config, stop.clone()));
    Cluster::wait_routed(address, "/plain").await;
    let (mut goes, session) = enter_as(address, "/live/hall", "b").await;
    let mut events = EventSource::open(address, "/live/hall?name=c", "").await;
    events.data().await;
    let peers = scene.nodes[0].peers();
    eventually("the node reaches all", async || peers.present("hall").await.len() == 3).await;
    stop.cancel();
    assert_eq!(closed(&mut goes).await, (1012, "the gateway restarts: connect again".to_owned()));
    scene.ended(&session, 1012).await;
    events.ended().await;
    timeout(PATIENCE, gateway).await.unwrap().unwrap().unwrap();
    eventually("the node is told that the gateway is gone", async || {
        matches!(peers.push(&session, &1).await, Err(PushError::NoGateway { .. }))
    })
    .await;
    assert_eq!(peers.push_group("hall", &1).await.unwrap(), 1);
    assert_eq!(hear(&mut stays).await, 1);
}

#[tokio::test]
async fn a_client_may_come_for_events() {
    let scene = Scene::start().await;
    let mut events = EventSource::open(scene.gateways[0], "/live/hall?name=a", "").await;
    let session = events.data().await["session"].as_str().unwrap().to_owned();
    let peers = scene.nodes[0].peers();
    eventually("the node reaches it", async || peers.present("hall").await.len() == 1).await;
    peers.push(&session, &json!({ "text": "¶\n" })).await.unwrap();
    assert_eq!(events.data().await, json!({ "text": "¶\n" }));
    drop(events);
    scene.ended(&session, 1006).await;
    // One whose node closes it.
    let mut events = EventSource::open(scene.gateways[1], "/live/hall?name=a", "").await;
    let session = events.data().await["session"].as_str().unwrap().to_owned();
    eventually("the node reaches it", async || peers.close_session(&session, 4000, "over").await.is_ok()).await;
    events.ended().await;
    scene.ended(&session, 4000).await;
}

#[tokio::test]
async fn pu3_a_client_that_comes_back_gets_what_it_has_missed() {
    let scene = Scene::start().await;
    let [gateway, other] = scene.gateways;
    let mut client = open(gateway, "/kept/hall?name=a").await;
    let first = hear(&mut client).await;
    assert_eq!(first["resumed"], false);
    let token = first["session"].as_str().unwrap().to_owned();
    let greeting = hear(&mut client).await;
    assert_eq!(greeting["n"], 1);
    let session = greeting["m"]["session"].as_str().unwrap().to_owned();
    let peers = scene.nodes[0].peers();
    eventually("the node reaches it", async || peers.present("hall").await.len() == 1).await;
    say(&mut client, &json!({ "m": "hello" })).await;
    assert_eq!(hear(&mut client).await, json!({ "n": 2, "m": { "said": "hello", "by": "a" } }));
    say(&mut client, &json!({ "ack": 2 })).await;
    peers.push(&session, &3).await.unwrap();
    // It is cut, and misses two messages.
    drop(client);
    peers.push(&session, &4).await.unwrap();
    let resume = |token: &str, after: u64| format!("/kept/hall?name=a&resume={token}&after={after}");
    let mut client = open(gateway, &resume(&token, 2)).await;
    let again = hear(&mut client).await;
    assert_eq!((&again["resumed"], &again["missed"]), (&json!(true), &Value::Null));
    assert_eq!(
        (hear(&mut client).await, hear(&mut client).await),
        (json!({ "n": 3, "m": 3 }), json!({ "n": 4, "m": 4 }))
    );
    // A client that comes back while its earlier socket seems to be open.
    let newer = again["session"].as_str().unwrap();
    let mut taken = open(gateway, &resume(newer, 4)).await;
    let again = hear(&mut taken).await;
    assert_eq!(again["resumed"], true);
    assert_eq!(closed(&mut client).await, (1008, "the session goes on over another socket".to_owned()));
    peers.push(&session, &5).await.unwrap();
    assert_eq!(hear(&mut taken).await, json!({ "n": 5, "m": 5 }));
    assert_eq!(scene.ends.lock().unwrap().len(), 0, "the session goes on");
    // A token that was used, one of another gateway, and nonsense: a new session begins.
    for (gateway, token) in [(gateway, newer), (other, again["session"].as_str().unwrap()), (gateway, "x")] {
        let mut client = open(gateway, &resume(token, 0)).await;
        assert_eq!(hear(&mut client).await["resumed"], false);
        assert_ne!(hear(&mut client).await["m"]["session"], session);
    }
    // It says goodbye.
    taken.close(Some(CloseFrame { code: 1000.into(), reason: "".into() })).await.unwrap();
    scene.ended(&session, 1000).await;
}

#[tokio::test]
async fn pu3_a_browser_resumes_its_events() {
    let scene = Scene::start().await;
    let gateway = scene.gateways[0];
    let mut events = EventSource::open(gateway, "/kept/hall?name=a", "").await;
    assert_eq!(events.event().await.unwrap().0, "session");
    let session = events.data().await["session"].as_str().unwrap().to_owned();
    let peers = scene.nodes[0].peers();
    eventually("the node reaches it", async || peers.push(&session, &2).await.is_ok()).await;
    assert_eq!(events.data().await, 2);
    let last_id = events.last_id.clone();
    drop(events);
    peers.push(&session, &3).await.unwrap();
    let mut events = EventSource::open(gateway, "/kept/hall?name=a", &last_id).await;
    let (name, again) = events.event().await.unwrap();
    assert_eq!((&*name, &again["resumed"]), ("session", &json!(true)));
    // Its token has changed before the first message.
    assert_ne!(events.last_id.split('/').next(), last_id.split('/').next());
    assert_eq!(events.data().await, 3);
}

#[tokio::test]
async fn pu4_a_client_that_does_not_come_back_in_time_has_gone() {
    let scene = Scene::start().await;
    let mut client = open(scene.gateways[0], "/briefly/hall?name=a").await;
    let token = hear(&mut client).await["session"].as_str().unwrap().to_owned();
    let session = hear(&mut client).await["m"]["session"].as_str().unwrap().to_owned();
    drop(client);
    scene.ended(&session, 1006).await;
    let mut late = open(scene.gateways[0], &format!("/briefly/hall?name=a&resume={token}")).await;
    assert_eq!(hear(&mut late).await["resumed"], false);
}

#[tokio::test]
async fn pu5_a_client_that_does_not_read_loses_its_socket_or_messages() {
    let scene = Scene::start().await;
    let peers = scene.nodes[0].peers();
    let large = "x".repeat(50_000);
    let (mut strict, session) = enter_as(scene.gateways[0], "/live/hall", "a").await;
    eventually("the node reaches it", async || peers.present("hall").await.len() == 1).await;
    let mut pushed = 0;
    let refused = loop {
        match peers.push(&session, &large).await {
            Ok(()) => pushed += 1,
            Err(refused) => break refused,
        }
        assert!(pushed < 1000, "50 MB are held somewhere");
    };
    assert!(matches!(refused, PushError::Slow { .. } | PushError::Ended { .. }), "{refused:?}");
    assert_eq!(closed(&mut strict).await.0, 1013);
    scene.ended(&session, 1013).await;

    let (mut lossy, session) = enter_as(scene.gateways[0], "/lossy/hall", "a").await;
    for number in 0..600 {
        peers.push(&session, &json!([number, large])).await.unwrap();
    }
    // The first ones were on their way; the last ones are there.
    let mut last = 0;
    while last < 599 {
        let number = hear(&mut lossy).await[0].as_u64().unwrap();
        assert!(number > last || number == 0);
        last = number;
    }
}
