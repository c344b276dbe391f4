//! Guards and layers, which wrap handlers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{StreamExt, stream};
use node_sdk::testing::{TestMesh, TestNode};
use node_sdk::{
    Caller, Extension, Next, NoContent, Node, NodeBuilder, Outcome, Params, Route, ServiceError, StartError, State,
    Streaming,
};
use tokio::time::sleep;

#[tokio::test(start_paused = true)]
async fn guards_run_before_handlers() {
    async fn awake() -> Result<(), ServiceError> {
        sleep(Duration::from_millis(10)).await;
        Ok(())
    }
    async fn admins(caller: Caller) -> Result<(), ServiceError> {
        match caller.name().as_deref() {
            Some("admin") => Ok(()),
            name => Err(ServiceError::new(403, "admins_only", format!("and not for {name:?}"))),
        }
    }
    async fn small(Params(number): Params<u8>) -> Result<String, ServiceError> {
        Ok(number.to_string())
    }
    let mesh = TestMesh::start();
    let node = Node::builder("callee")
        .guard(awake)
        .route("GET/open", small)
        .group(|group| group.guard(admins).route("GET/closed", small))
        .route("GET/after", small);
    let _callee = mesh.node(node).await.unwrap();
    let (admin, other) =
        (mesh.node(Node::builder("admin")).await.unwrap(), mesh.node(Node::builder("other")).await.unwrap());
    let check = async |caller: &TestNode, url: &str, number: u16, expected: &str| {
        caller.peers().wait_until(|nodes| nodes.len() == 3).await;
        let result = caller.peers().call::<String>(url, &number).await;
        let result = result.unwrap_or_else(|error| error.to_string());
        assert!(result.starts_with(expected), "{url} {number}: {result}");
    };
    for url in ["GET/open", "GET/closed", "GET/after"] {
        check(&admin, url, 7, "7").await;
        check(&admin, url, 1000, "400 bad_params").await;
    }
    check(&other, "GET/open", 7, "7").await;
    check(&other, "GET/after", 7, "7").await;
    // A caller that the guard refuses is not told of faults in its arguments.
    check(&other, "GET/closed", 7, r#"403 admins_only: and not for Some("other")"#).await;
    check(&other, "GET/closed", 1000, "403 admins_only").await;
}

/// The calls that layers saw, in order.
type CallLog = Mutex<Vec<String>>;

async fn outer(route: Route, seen: State<CallLog>, next: Next) -> Result<Outcome, ServiceError> {
    seen.lock().unwrap().push(format!("> {route}"));
    let outcome = next.run().await;
    let said = match &outcome {
        Ok(outcome) => format!("< {} {}", outcome.status(), outcome.body().map_or("parts", |body| body.get())),
        Err(error) => format!("< {error}"),
    };
    seen.lock().unwrap().push(said);
    outcome
}

async fn inner(seen: State<CallLog>, next: Next) -> Result<Outcome, ServiceError> {
    seen.lock().unwrap().push("> inner".to_owned());
    next.run().await
}

#[tokio::test(start_paused = true)]
async fn layers_are_around_handlers() {
    async fn double(Params(number): Params<u8>) -> Result<u8, ServiceError> {
        sleep(Duration::from_millis(10)).await;
        number.checked_mul(2).ok_or_else(|| ServiceError::bad_request("too_much", "too much"))
    }
    async fn nothing() -> Result<NoContent, ServiceError> {
        Ok(NoContent)
    }
    async fn count(
        Params(to): Params<u8>,
    ) -> Result<Streaming<impl futures::Stream<Item = Result<u8, ServiceError>>>, ServiceError> {
        Ok(Streaming(stream::iter((0..to).map(Ok))))
    }
    async fn fails() -> Result<(), ServiceError> {
        panic!("on purpose");
    }
    async fn closed() -> Result<&'static str, ServiceError> {
        Ok("closed")
    }
    async fn shorter(next: Next) -> Result<Outcome, ServiceError> {
        let outcome = next.run().await?;
        Outcome::from_result(outcome.body().map_or(0, |body| body.get().len()))
    }
    /// It is not a layer, so no layer is inside it.
    async fn astray(next: Next) -> Result<Outcome, ServiceError> {
        next.run().await
    }
    async fn refuses() -> Result<(), ServiceError> {
        Err(ServiceError::new(403, "no", "no"))
    }
    let seen = Arc::new(CallLog::default());
    let mesh = TestMesh::start();
    let node = Node::builder("callee")
        .shared_state(Arc::clone(&seen))
        .route("GET/bare", double)
        .layer(outer)
        .route("GET/double", double)
        .route("GET/nothing", nothing)
        .route("GET/count", count)
        .route("GET/fails", fails)
        .route("GET/astray", astray)
        .group(|group| group.layer(inner).route("GET/inner", double))
        .group(|group| group.layer(closed).route("GET/closed", double))
        .group(|group| group.layer(shorter).route("GET/shorter", double))
        .group(|group| group.layer(inner).guard(refuses).route("GET/refused", double))
        .subscribe("happened", double);
    let _callee = mesh.node(node).await.unwrap();
    let caller = mesh.node(Node::builder("caller")).await.unwrap();
    caller.peers().wait_until(|nodes| nodes.len() == 2).await;
    let check = async |url: &str, number: u16, expected: &str, expected_seen: &[&str]| {
        let result = caller.peers().call::<serde_json::Value>(url, &number).await;
        let result = result.map_or_else(|error| error.to_string(), |value| value.to_string());
        assert_eq!(
            (result.as_str(), &*std::mem::take(&mut *seen.lock().unwrap())),
            (expected, &*expected_seen.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())
        );
    };
    check("GET/bare", 7, "14", &[]).await;
    check("GET/double", 7, "14", &["> GET/double", "< 200 14"]).await;
    check("GET/double", 200, "400 too_much: too much", &["> GET/double", "< 400 too_much: too much"]).await;
    check("GET/nothing", 0, "null", &["> GET/nothing", "< 204 null"]).await;
    check("GET/inner", 7, "14", &["> GET/inner", "> inner", "< 200 14"]).await;
    check("GET/closed", 7, r#""closed""#, &["> GET/closed", r#"< 200 "closed""#]).await;
    check("GET/shorter", 7, "2", &["> GET/shorter", "< 200 2"]).await;
    check("GET/refused", 7, "403 no: no", &["> GET/refused", "> inner", "< 403 no: no"]).await;
    check("GET/fails", 0, "500 internal: the handler failed", &["> GET/fails"]).await;
    let astray = "500 internal: only a layer can take Next, and only once";
    check("GET/astray", 0, astray, &["> GET/astray", &format!("< {astray}")]).await;
    // The error for invalid arguments is an answer like any other.
    let bad = "400 bad_params: invalid value: integer `1000`, expected u8 at line 1 column 4";
    check("GET/double", 1000, bad, &["> GET/double", &format!("< {bad}")]).await;

    let parts = caller.peers().stream::<u8>("GET/count", &3_u8).await.unwrap();
    assert_eq!(parts.map(Result::unwrap).collect::<Vec<_>>().await, [0, 1, 2]);
    assert_eq!(*std::mem::take(&mut *seen.lock().unwrap()), ["> GET/count", "< 200 parts"]);
    caller.peers().emit("happened", &1_u8).unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(*seen.lock().unwrap(), ["> EVENT/happened", "< 200 2"]);
}

#[tokio::test]
async fn arguments_of_a_layer_are_checked_at_start() {
    async fn nothing() -> Result<(), ServiceError> {
        Ok(())
    }
    let started = Node::builder("callee").layer(inner).route("GET/nothing", nothing).start().await;
    let Err(StartError::MissingState { route, .. }) = started else { panic!("it started") };
    assert_eq!(route, "GET/nothing");
}

#[tokio::test]
async fn f4_a_guard_or_layer_before_no_route_is_an_error_at_start() {
    async fn nothing() -> Result<(), ServiceError> {
        Ok(())
    }
    async fn pass(next: Next) -> Result<Outcome, ServiceError> {
        next.run().await
    }
    let new = || Node::builder("callee").listen("127.0.0.1:0").distributor("127.0.0.1:1");
    let check = async |node: NodeBuilder, expected: &str| {
        let said = node.start().await.map_or_else(|error| error.to_string(), |_node| "starts".to_owned());
        // Without the paths of the functions, which are those of this test.
        let said = said.split_whitespace().map(|word| word.rsplit("::").next().unwrap_or(word));
        assert_eq!(said.collect::<Vec<_>>().join(" "), expected);
    };
    let idle = |what: &str| format!("the {what} stands before no route; write it before the routes that it is for");
    check(new().guard(nothing), &idle("guard nothing")).await;
    check(new().layer(pass), &idle("layer pass")).await;
    check(new().route("GET/a", nothing).guard(nothing), &idle("guard nothing")).await;
    check(new().route("GET/a", nothing).group(|group| group.layer(pass)), &idle("layer pass")).await;
    check(new().group(|group| group.layer(pass).guard(nothing)).route("GET/a", nothing), &idle("layer pass")).await;
    check(new().group(|group| group.route("GET/a", nothing).guard(nothing)), &idle("guard nothing")).await;
    check(new().guard(nothing).layer(pass).route("GET/a", nothing), "starts").await;
    check(new().guard(nothing).group(|group| group.route("GET/a", nothing)), "starts").await;
    check(new().group(|group| group.guard(nothing).group(|inner| inner.route("GET/a", nothing))), "starts").await;
    check(new().guard(nothing).subscribe("a.b", nothing), "starts").await;
    check(new().group(|group| group).route("GET/a", nothing), "starts").await;
}

#[derive(Clone, Debug, PartialEq)]
struct User(String);

#[derive(Clone)]
struct Rank(usize);

async fn signed_in(caller: Caller) -> Result<Extension<User>, ServiceError> {
    let name = caller.name().ok_or_else(|| ServiceError::new(401, "nobody", "nobody"))?;
    Ok(Extension(User(name)))
}

/// A guard that waits, and takes what the one before it has handed on.
async fn ranked(Extension(user): Extension<User>) -> Result<Extension<Rank>, ServiceError> {
    sleep(Duration::from_millis(10)).await;
    Ok(Extension(Rank(user.0.len())))
}

async fn rank(Extension(user): Extension<User>, Extension(rank): Extension<Rank>) -> Result<String, ServiceError> {
    Ok(format!("{}: {}", user.0, rank.0))
}

async fn name(user: Option<Extension<User>>) -> Result<String, ServiceError> {
    Ok(user.map_or_else(|| "nobody".to_owned(), |Extension(user)| user.0))
}

#[tokio::test(start_paused = true)]
async fn m5_guards_and_layers_hand_values_on() {
    async fn renamed(Extension(user): Extension<User>, next: Next) -> Result<Outcome, ServiceError> {
        next.with(User(user.0.to_uppercase())).with(Rank(7)).run().await
    }
    let mesh = TestMesh::start();
    let node = Node::builder("callee")
        .route("GET/open", name)
        .guard(signed_in)
        .route("GET/name", name)
        .group(|group| group.guard(ranked).route("GET/rank", rank))
        .group(|group| group.layer(renamed).route("GET/renamed", rank));
    let _callee = mesh.node(node).await.unwrap();
    let caller = mesh.node(Node::builder("ann")).await.unwrap();
    caller.peers().wait_until(|nodes| nodes.len() == 2).await;
    let check = async |url: &str, expected: &str| {
        assert_eq!(caller.peers().call::<String>(url, &()).await.unwrap(), expected);
    };
    check("GET/open", "nobody").await;
    check("GET/name", "ann").await;
    check("GET/rank", "ann: 3").await;
    check("GET/renamed", "ANN: 7").await;
}

#[tokio::test(start_paused = true)]
async fn m5_a_value_that_no_guard_returns_is_an_error_at_start() {
    async fn plain(next: Next) -> Result<Outcome, ServiceError> {
        next.run().await
    }
    #[track_caller]
    fn check(node: NodeBuilder, expected: &str) -> impl Future<Output = ()> {
        let expected = expected.to_owned();
        async move {
            let Err(StartError::MissingExtension { route, value }) = node.start().await else { panic!("it started") };
            assert_eq!((&*route, value.rsplit("::").next()), ("GET/rank", Some(&*expected)));
        }
    }
    let node = || Node::builder("callee");
    check(node().route("GET/rank", rank), "User").await;
    check(node().guard(signed_in).route("GET/rank", rank), "Rank").await;
    check(node().guard(ranked).guard(signed_in).route("GET/rank", rank), "User").await;
    check(node().group(|group| group.guard(signed_in).route("GET/a", name)).route("GET/rank", rank), "User").await;
    // A layer may hand on anything, so only a call shows it.
    let mesh = TestMesh::start();
    let _callee = mesh.node(node().layer(plain).route("GET/rank", rank)).await.unwrap();
    let caller = mesh.node(Node::builder("ann")).await.unwrap();
    caller.peers().wait_until(|nodes| nodes.len() == 2).await;
    let error = caller.peers().call::<String>("GET/rank", &()).await.unwrap_err().to_string();
    assert!(error.contains("500") && error.contains("no guard or layer has handed on a value"), "{error}");
}
