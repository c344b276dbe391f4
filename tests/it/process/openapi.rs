//! The OpenAPI document of a gateway, for operators.

use std::net::SocketAddr;

use node_sdk::{Created, Node, Params, Refusal, ServiceError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tests::{Cluster, Process, eventually, pick_port, request};

use crate::programs::GATEWAY;

#[derive(Debug, Serialize, Deserialize, node_sdk::private::schemars::JsonSchema)]
#[schemars(crate = "node_sdk::private::schemars")]
struct Good {
    id: u64,
    name: String,
    #[serde(default)]
    parts: Vec<Self>,
}

#[derive(Debug, Refusal)]
enum GoodsError {
    #[refusal(404, "no_good", "there is no such good")]
    NoGood,
}

#[node_sdk::service(schema)]
trait Goods {
    /// Finds one of them.
    ///
    /// This is not shown.
    #[route("GET/goods/{id}", public)]
    async fn find(&self, id: u64, #[default("en")] language: String) -> Result<Good, GoodsError>;

    #[route("POST/goods", public)]
    async fn add(&self, name: String) -> Result<Created<Good>, ServiceError>;

    #[route("POST/goods/reserve")]
    async fn reserve(&self) -> Result<(), ServiceError>;
}

struct Shelf;

impl Goods for Shelf {
    async fn find(&self, _id: u64, _language: String) -> Result<Good, GoodsError> {
        Err(GoodsError::NoGood)
    }

    async fn add(&self, name: String) -> Result<Created<Good>, ServiceError> {
        Ok(Created(Good { id: 7, name, parts: Vec::new() }))
    }

    async fn reserve(&self) -> Result<(), ServiceError> {
        Ok(())
    }
}

async fn replace(Params(_good): Params<Good>) -> Result<(), ServiceError> {
    Ok(())
}

async fn plain() -> Result<(), ServiceError> {
    Ok(())
}

/// All references of a document, to be looked up in it.
fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
            members.values().for_each(|inner| references(inner, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

/// What OpenAPI 3.1 asks of a document of ours.
#[track_caller]
fn check_valid(document: &Value) {
    assert_eq!(document["openapi"], "3.1.0");
    assert!(document["info"]["title"].is_string() && document["info"]["version"].is_string());
    let mut ids = std::collections::BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{method} {path}");
            let parameters = operation["parameters"].as_array().unwrap();
            let of_path = parameters.iter().filter(|parameter| parameter["in"] == "path");
            let of_path: Vec<_> =
                of_path.map(|parameter| format!("{{{}}}", parameter["name"].as_str().unwrap())).collect();
            assert_eq!(of_path.len(), path.matches('{').count());
            assert!(of_path.iter().all(|name| path.contains(name)), "{method} {path}: {of_path:?}");
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.values().all(|response| response["description"].is_string()), "{method} {path}");
        }
    }
    let mut found = Vec::new();
    references(document, &mut found);
    for reference in found {
        assert!(document.pointer(&reference[1..]).is_some(), "{reference} is not there");
    }
}

#[tokio::test]
async fn operators_get_what_is_public_as_openapi() {
    let cluster = Cluster::start();
    let [at, admin] = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], pick_port())));
    let (listen, operators, distributor) = (at.to_string(), admin.to_string(), cluster.address.to_string());
    let arguments = ["--listen", &listen, "--admin", &operators, "--distributor", &distributor, "--workers", "1"];
    let gateway = Process::start(GATEWAY, &arguments);
    gateway.line("listening").await;
    let goods = Shelf.offer(Node::builder("goods").distributor(&distributor));
    let goods = goods.route("PUT/goods/{id}", replace).public().schema::<Good, ()>();
    let _goods = goods.start().await.unwrap();
    let other = Node::builder("other").distributor(&distributor).route("GET/other/{name}", plain).public();
    let _other = other.start().await.unwrap();
    let mut document = Value::Null;
    eventually("both are known", async || {
        let response = request(admin, "GET", "/openapi.json", "").await;
        assert_eq!((response.status, response.header("content-type")), (200, Some("application/json")));
        document = serde_json::from_str(&response.body).unwrap();
        document["paths"].as_object().unwrap().len() == 3
    })
    .await;
    check_valid(&document);
    assert!(document["paths"].get("/goods/reserve").is_none(), "an internal route is not shown");
    let find = &document["paths"]["/goods/{id}"]["get"];
    assert_eq!((&find["summary"], &find["tags"]), (&json!("Finds one of them."), &json!(["goods"])));
    let [id, language] = &find["parameters"].as_array().unwrap()[..] else { panic!("{find:#}") };
    assert_eq!((&id["in"], &id["schema"]["type"]), (&json!("path"), &json!("integer")));
    assert_eq!((&language["in"], &language["required"]), (&json!("query"), &json!(false)));
    assert_eq!(language["schema"]["default"], "en");
    assert_eq!(find["responses"]["404"]["description"], "`no_good`: there is no such good");
    let good = json!({ "$ref": "#/components/schemas/goods.Good" });
    assert_eq!(find["responses"]["200"]["content"]["application/json"]["schema"], good);
    let created = &document["paths"]["/goods"]["post"]["responses"]["201"];
    assert_eq!(created["content"]["application/json"]["schema"], good);
    let body = &document["paths"]["/goods/{id}"]["put"]["requestBody"]["content"]["application/json"]["schema"];
    assert_eq!(body["required"], json!(["name"]), "the id is in the path: {body:#}");
    assert_eq!(document["paths"]["/other/{name}"]["get"]["parameters"][0]["schema"], json!({ "type": "string" }));

    let page = request(admin, "GET", "/openapi", "").await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.body.contains("openapi.json") && !page.body.contains("//"), "the page needs no other server");
    let outside = request(at, "GET", "/$schema/goods", "").await;
    assert_eq!(outside.status, 404, "clients do not get the schemas");
}
