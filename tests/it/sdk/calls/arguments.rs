//! Arguments that a call may lack.

use std::fmt::Debug;

use futures::TryStreamExt;
use node_sdk::testing::TestMesh;
use node_sdk::{
    Caller, FromCall, IncomingCall, Items, Node, Params, Path, Peers, RawParams, ServiceError, State, Trace,
};
use serde_json::{Value, json};
use tests::streams::HandlerResult;

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
