//! Arguments that a call may lack, and arguments that are awaited.

use std::fmt::Debug;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{Stream, TryStreamExt, stream};
use node_sdk::testing::TestMesh;
use node_sdk::{
    AsyncFromCall, Awaited, Caller, Deadline, Extension, FromCall, IncomingCall, Items, Next, Node, NodeBuilder,
    Outcome, Params, Path, Peers, RawParams, ServiceError, State, Streaming, Trace,
};
use serde_json::{Value, json};
use tests::streams::HandlerResult;
use tokio::time::sleep;

/// Refuses calls with the status that they name.
#[derive(Debug)]
struct Token;

impl FromCall for Token {
    fn from_call(call: &IncomingCall<'_>) -> HandlerResult<Self> {
        let Params(refusal) = Params::<Option<u16>>::from_call(call)?;
        refusal.map_or(Ok(Self), |status| Err(ServiceError::new(status, "refused", "on purpose")))
    }
}

/// What the handler has got.
async fn show<T: Debug>(got: T) -> HandlerResult<String> {
    Ok(format!("{got:?}"))
}

#[tokio::test(start_paused = true)]
async fn arguments_that_a_call_may_lack() {
    let node = Node::builder("node")
        .state(7_u8)
        .route("POST/params", async |got: Option<Params<u8>>| show(got.map(|Params(n)| n)).await)
        .route("POST/named/{id}", async |got: Option<Params<Value>>| show(got.map(|Params(n)| n)).await)
        .route("POST/result", async |got: Result<Params<u8>, ServiceError>| show(got.map(|Params(n)| n)).await)
        .route("POST/path/{id}", async |got: Option<Path<u8>>| show(got.map(|Path(id)| id)).await)
        .route("POST/path", async |got: Option<Path<u8>>| show(got.map(|Path(id)| id)).await)
        .route("POST/token", async |got: Option<Token>| show(got).await)
        .route("POST/token/result", async |got: Result<Token, ServiceError>| show(got.map_err(|e| e.status)).await)
        .route("POST/state", async |got: Option<State<u8>>| show(got.map(|state| *state)).await)
        .route("POST/no/state", async |got: Option<State<u16>>| show(got.map(|state| *state)).await)
        .route("POST/items", async |got: Option<Items<u8>>| show(got.is_some()).await)
        .route("POST/raw", async |got: Option<RawParams>| show(got.map(|RawParams(text)| text)).await)
        .route("POST/always", async |a: Option<Peers>, b: Option<Caller>, c: Option<Trace>| {
            show((a.is_some(), b.is_some(), c.is_some())).await
        })
        .route("POST/twice", async |got: Option<Result<Token, ServiceError>>, also: Option<Option<Token>>| {
            show((got.map(|got| got.is_ok()), also.map(|also| also.is_some()))).await
        });
    let mesh = TestMesh::start();
    let _node = mesh.node(node).await.unwrap();
    let caller = mesh.node(Node::builder("caller")).await.unwrap();
    caller.peers().wait_for(&["POST/params"]).await;
    let check = async |url: &str, params: Value, expected: &str| {
        let answer = caller.peers().call::<String>(url, &params).await.unwrap_or_else(|error| error.to_string());
        assert!(answer.starts_with(expected), "{url} {params}: {answer}");
    };
    check("POST/params", json!(7), "Some(7)").await;
    check("POST/params", json!(null), "None").await;
    check("POST/params", json!({}), "None").await;
    // An argument that is there and wrong does not count as lacking.
    check("POST/params", json!("seven"), "400 bad_params").await;
    check("POST/named/7", json!(null), r#"Some(Object {"id": String("7")})"#).await;
    check("POST/result", json!(7), "Ok(7)").await;
    check("POST/result", json!("seven"), r#"Err(ServiceError { status: 400, reason: "bad_params""#).await;
    check("POST/path/7", json!(null), "Some(7)").await;
    check("POST/path/seven", json!(null), "400 bad_path").await;
    check("POST/path", json!(null), "None").await;
    check("POST/token", json!(null), "Some(Token)").await;
    check("POST/token", json!(401), "None").await;
    check("POST/token", json!(503), "503 refused").await;
    check("POST/token/result", json!(null), "Ok(Token)").await;
    check("POST/token/result", json!(401), "Err(401)").await;
    check("POST/token/result", json!(503), "Err(503)").await;
    check("POST/state", json!(null), "Some(7)").await;
    check("POST/no/state", json!(null), "None").await;
    check("POST/items", json!(null), "false").await;
    check("POST/raw", json!({ "a": 1 }), r#"Some("{\"a\":1}")"#).await;
    check("POST/always", json!(null), "(true, true, true)").await;
    check("POST/twice", json!(401), "(Some(false), Some(false))").await;
    let streamed = caller.peers().stream::<String>("POST/items", &()).await.unwrap();
    assert_eq!(streamed.try_collect::<Vec<_>>().await.unwrap(), ["true"]);
}

#[tokio::test]
async fn a_state_that_must_be_there_is_missed_at_start() {
    async fn needs(_state: Result<State<u16>, ServiceError>) -> HandlerResult<()> {
        Ok(())
    }
    let error = Node::builder("node").route("GET/a", needs).start().await.unwrap_err();
    assert_eq!(error.to_string(), "the handler of GET/a needs a state of type u16; give it with .state(…)");
}

/// What was done, in order.
type Steps = Mutex<Vec<&'static str>>;

/// The user with the token that the call names, whom another node knows.
#[derive(Clone, Debug, PartialEq)]
struct User(String);

impl AsyncFromCall for User {
    type Arguments = (Option<Params<String>>, Peers, State<Steps>);

    async fn from_arguments((token, peers, steps): Self::Arguments) -> HandlerResult<Self> {
        steps.lock().unwrap().push("asks");
        let token = token.map_or_else(String::new, |Params(token)| token);
        match &*token {
            "" => Err(ServiceError::new(401, "sign_in", "sign in first")),
            "slow" => std::future::pending().await,
            token => peers
                .call("GET/users/{token}".replace("{token}", token).as_str(), &())
                .await
                .map(Self)
                .map_err(Into::into),
        }
    }
}

/// An argument that is made of one that is awaited.
struct Length(usize);

impl AsyncFromCall for Length {
    type Arguments = (Result<Awaited<User>, ServiceError>, Deadline);

    async fn from_arguments((user, deadline): Self::Arguments) -> HandlerResult<Self> {
        assert!(deadline.remaining().is_some_and(|left| left <= Duration::from_secs(5)), "{deadline:?}");
        Ok(Self(user?.0.0.len()))
    }
}

/// An argument that notes when it is read.
struct Noted;

impl FromCall for Noted {
    fn from_call(call: &IncomingCall<'_>) -> HandlerResult<Self> {
        State::<Steps>::from_call(call)?.lock().unwrap().push("read");
        Ok(Self)
    }
}

/// Looks a user up in another node, which takes a while.
async fn user(Path(token): Path<String>) -> HandlerResult<String> {
    sleep(Duration::from_millis(10)).await;
    match &*token {
        "a" => Ok("Ann".to_owned()),
        _ => Err(ServiceError::not_found("no_user", "there is no such user")),
    }
}

async fn count_names(
    Awaited(User(name)): Awaited<User>,
    items: Items<u8>,
) -> HandlerResult<Streaming<impl Stream<Item = HandlerResult<String>>>> {
    let sum = items.try_fold(0, async |sum, item| Ok(sum + item)).await?;
    Ok(Streaming(stream::iter([Ok(name), Ok(sum.to_string())])))
}

/// A node whose handlers, guards and layers have arguments that are awaited.
fn awaiting_node(steps: Arc<Steps>) -> NodeBuilder {
    async fn signed_in(Awaited(user): Awaited<User>) -> HandlerResult<Extension<User>> {
        Ok(Extension(user))
    }
    async fn louder(Awaited(User(name)): Awaited<User>, next: Next) -> HandlerResult<Outcome> {
        next.with(User(name.to_uppercase())).run().await
    }
    async fn layer_without_next(Awaited(Length(length)): Awaited<Length>) -> HandlerResult<usize> {
        Ok(length)
    }
    async fn name(Extension(User(name)): Extension<User>) -> HandlerResult<String> {
        Ok(name)
    }
    Node::builder("node")
        .shared_state(steps)
        .route("POST/user", async |Awaited(User(name)): Awaited<User>| show(name).await)
        .route("POST/order", async |a: Noted, Awaited(user): Awaited<User>, b: Noted, Params(token): Params<String>| {
            let _ = (a, b);
            show((user, token)).await
        })
        .route("POST/option", async |user: Option<Awaited<User>>| show(user).await)
        .route("POST/options", async |user: Option<Option<Awaited<User>>>| show(user).await)
        .route("POST/result", async |user: Result<Awaited<User>, ServiceError>| {
            show(user.map_err(|error| error.status)).await
        })
        .route("POST/length", async |Awaited(Length(length)): Awaited<Length>| show(length).await)
        .route("POST/tuple", async |(Awaited(user), Noted): (Awaited<User>, Noted)| show(user).await)
        .route("POST/tuple/option", async |both: Option<(Awaited<User>, Awaited<Length>)>| show(both.is_some()).await)
        .route("POST/names", count_names)
        .group(|group| group.guard(signed_in).route("POST/guarded", name))
        .group(|group| group.layer(louder).route("POST/louder", name))
        .group(|group| group.layer(layer_without_next).route("POST/instead", name))
}

#[tokio::test(start_paused = true)]
async fn m5_arguments_may_be_awaited() {
    let steps = Arc::new(Steps::default());
    let mesh = TestMesh::start();
    let _users = mesh.node(Node::builder("users").route("GET/users/{token}", user)).await.unwrap();
    let node = mesh.node(awaiting_node(Arc::clone(&steps))).await.unwrap();
    let caller = mesh.node(Node::builder("caller")).await.unwrap();
    for node in [&node, &caller] {
        node.peers().wait_for(&["POST/user", "GET/users/{token}"]).await;
    }
    let check = async |url: &str, token: Value, expected: &str, expected_steps: &[&str]| {
        let answer = caller.peers().call::<Value>(url, &token).await;
        let answer = answer.map_or_else(
            |error| error.to_string(),
            |value| value.as_str().map_or_else(|| value.to_string(), str::to_owned),
        );
        assert!(answer.starts_with(expected), "{url} {token}: {answer}");
        assert_eq!(*std::mem::take(&mut *steps.lock().unwrap()), *expected_steps, "{url} {token}");
    };
    check("POST/user", json!("a"), r#""Ann""#, &["asks"]).await;
    check("POST/user", json!(null), "401 sign_in", &["asks"]).await;
    check("POST/user", json!("b"), "502 inner_call", &["asks"]).await;
    check("POST/user", json!(7), "400 bad_params", &[]).await;
    // Each is read when those before it are there.
    check("POST/order", json!("a"), r#"(User("Ann"), "a")"#, &["read", "asks", "read"]).await;
    check("POST/order", json!(null), "401 sign_in", &["read", "asks"]).await;
    check("POST/option", json!("a"), r#"Some(Awaited(User("Ann")))"#, &["asks"]).await;
    check("POST/option", json!(null), "None", &["asks"]).await;
    check("POST/option", json!("b"), "502 inner_call", &["asks"]).await;
    check("POST/options", json!(null), "Some(None)", &["asks"]).await;
    check("POST/result", json!("a"), r#"Ok(Awaited(User("Ann")))"#, &["asks"]).await;
    check("POST/result", json!(null), "Err(401)", &["asks"]).await;
    check("POST/result", json!("b"), "Err(502)", &["asks"]).await;
    check("POST/result", json!(7), "Err(400)", &[]).await;
    check("POST/length", json!("a"), "3", &["asks"]).await;
    check("POST/length", json!(null), "401 sign_in", &["asks"]).await;
    check("POST/tuple", json!("a"), r#"User("Ann")"#, &["read", "asks"]).await;
    check("POST/tuple/option", json!("a"), "true", &["asks", "asks"]).await;
    check("POST/tuple/option", json!(null), "false", &["asks"]).await;
    check("POST/guarded", json!("a"), "Ann", &["asks"]).await;
    check("POST/guarded", json!(null), "401 sign_in", &["asks"]).await;
    check("POST/louder", json!("a"), "ANN", &["asks"]).await;
    check("POST/louder", json!(null), "401 sign_in", &["asks"]).await;
    check("POST/instead", json!("a"), "3", &["asks"]).await;
    // The time of the call holds for its arguments, too.
    check("POST/user", json!("slow"), "no answer from POST/user within 5.0s", &["asks"]).await;

    let mut names = caller.peers().stream::<String>("POST/names", &"a").await.unwrap();
    let sender = names.sender();
    for item in [3_u8, 4] {
        sender.send(&item).await.unwrap();
    }
    sender.finish();
    assert_eq!(names.try_next().await.unwrap().as_deref(), Some("Ann"));
    assert_eq!(names.try_next().await.unwrap().as_deref(), Some("7"));
}

#[tokio::test(start_paused = true)]
async fn an_argument_that_is_awaited_is_dropped_with_its_caller() {
    /// Waits for ever.
    struct Never;
    struct Counted(Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    impl AsyncFromCall for Never {
        type Arguments = State<AtomicUsize>;

        async fn from_arguments(State(dropped): Self::Arguments) -> HandlerResult<Self> {
            let _counted = Counted(dropped);
            std::future::pending().await
        }
    }
    async fn never(_never: Awaited<Never>) -> HandlerResult<()> {
        Ok(())
    }
    let (mesh, dropped) = (TestMesh::start(), Arc::new(AtomicUsize::new(0)));
    let node = Node::builder("node").shared_state(Arc::clone(&dropped)).route("GET/never", never);
    let _node = mesh.node(node).await.unwrap();
    let caller = mesh.node(Node::builder("caller")).await.unwrap();
    caller.peers().wait_for(&["GET/never"]).await;
    let call = caller.peers().call::<()>("GET/never", &()).timeout(Duration::from_millis(100));
    assert!(call.await.is_err());
    while dropped.load(Ordering::SeqCst) == 0 {
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn what_an_awaited_argument_is_made_of_is_missed_at_start() {
    async fn needs(_length: Option<(Awaited<Length>, Peers)>) -> HandlerResult<()> {
        Ok(())
    }
    async fn needs_user(_length: Result<Awaited<Length>, ServiceError>) -> HandlerResult<()> {
        Ok(())
    }
    let new = || Node::builder("node").listen("127.0.0.1:0").distributor("127.0.0.1:1");
    assert!(new().route("GET/a", needs).start().await.is_ok());
    let error = new().route("GET/a", needs_user).start().await.unwrap_err().to_string();
    assert!(error.starts_with("the handler of GET/a needs a state of type ") && error.contains("Mutex<"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_argument_that_has_to_be_awaited_says_so_where_it_cannot() {
    #[derive(Debug)]
    struct Late;
    struct Made(HandlerResult<Late>);
    impl AsyncFromCall for Late {
        type Arguments = Peers;

        async fn from_arguments(_peers: Peers) -> HandlerResult<Self> {
            Ok(Self)
        }
    }
    impl FromCall for Made {
        fn from_call(call: &IncomingCall<'_>) -> HandlerResult<Self> {
            Ok(Self(Awaited::<Late>::from_call(call).map(|Awaited(late)| late)))
        }
    }
    async fn made(Made(late): Made) -> HandlerResult<String> {
        Ok(late.unwrap_err().message)
    }
    let mesh = TestMesh::start();
    let node = mesh.node(Node::builder("node").route("GET/made", made)).await.unwrap();
    node.peers().wait_for(&["GET/made"]).await;
    let said = node.peers().call::<String>("GET/made", &()).await.unwrap();
    assert!(
        said.ends_with(
            "Late has to be awaited: take it as an argument of a handler, or among the `Arguments` of an AsyncFromCall"
        ),
        "{said}"
    );
}

#[tokio::test(start_paused = true)]
async fn f3_a_type_without_data_takes_any_answer() {
    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Done;
    let node = Node::builder("node")
        .route("GET/number", async || Ok::<_, ServiceError>(7))
        .route("GET/object", async || Ok::<_, ServiceError>(json!({ "a": [1] })))
        .route("GET/nothing", async || Ok::<_, ServiceError>(()))
        .route("GET/refused", async || Err::<(), _>(ServiceError::conflict("taken", "on purpose")));
    let mesh = TestMesh::start();
    let node = mesh.node(node).await.unwrap();
    let caller = mesh.node(Node::builder("caller")).await.unwrap();
    caller.peers().wait_for(&["GET/number"]).await;
    // The node calls itself, too: that answer goes over no connection.
    for peers in [caller.peers(), node.peers()] {
        for url in ["GET/number", "GET/object", "GET/nothing"] {
            peers.call::<()>(url, &()).await.unwrap();
            assert_eq!(peers.call::<Done>(url, &()).await.unwrap(), Done, "{url}");
        }
        assert_eq!(peers.call::<()>("GET/refused", &()).await.unwrap_err().status(), Some(409));
        assert!(peers.call::<bool>("GET/number", &()).await.is_err(), "a type with data takes what fits");
    }
}
