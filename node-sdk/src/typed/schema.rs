//! What routes take and answer, as JSON schemas: for those who ask the node.

use std::sync::Arc;

use protocol::Route;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

use crate::error::ServiceError;
use crate::handler::{AnyHandler, erased};

/// What a route takes and answers.
#[derive(Debug, Default)]
pub struct RouteSchema {
    summary: &'static str,
    params: Option<MakeSchema>,
    result: Option<MakeSchema>,
    status: Option<u16>,
    in_parts: bool,
    refusals: &'static [(u16, &'static str, &'static str)],
}

/// Makes the schema of a type.
type MakeSchema = fn(&mut SchemaGenerator) -> Schema;

/// The schemas of a node, as they are sent: see `docs/PROTOCOL.md`, "Schemas".
#[derive(Serialize)]
struct NodeSchemas<'a> {
    service: &'a str,
    routes: Vec<SentSchema<'a>>,
    definitions: Map<String, Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SentSchema<'a> {
    route: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    summary: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<Schema>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Schema>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    in_parts: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    refusals: Vec<SentRefusal>,
}

#[derive(Serialize)]
struct SentRefusal {
    status: u16,
    reason: &'static str,
    message: &'static str,
}

impl RouteSchema {
    /// What the route does, in words.
    #[must_use]
    pub fn summary(mut self, text: &'static str) -> Self {
        self.summary = text;
        self
    }

    /// The type of the arguments.
    #[must_use]
    pub fn params<T: JsonSchema>(mut self) -> Self {
        self.params = Some(SchemaGenerator::subschema_for::<T>);
        self
    }

    /// The type of the result, or of a part of it.
    #[must_use]
    pub fn result<T: JsonSchema>(mut self) -> Self {
        self.result = Some(SchemaGenerator::subschema_for::<T>);
        self
    }

    /// The status of the result.
    #[must_use]
    pub fn status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    /// The result comes in parts.
    #[must_use]
    pub fn in_parts(mut self) -> Self {
        self.in_parts = true;
        self
    }

    /// The errors, each with its status, word and text.
    #[must_use]
    pub fn refusals(mut self, refusals: &'static [(u16, &'static str, &'static str)]) -> Self {
        self.refusals = refusals;
        self
    }
}

/// The route at which a node of this name tells its schemas; `None` if its name is no segment of a
/// path. It has the name in it, so that services of two names do not offer one url.
pub(crate) fn schema_route(name: &str) -> Option<String> {
    let text = format!("GET/$schema/{name}");
    Route::parse(&text).is_ok().then_some(text)
}

/// The handler that tells the schemas of the node called `service`.
pub(crate) fn schema_handler<'a>(
    service: &'a str,
    routes: impl Iterator<Item = (&'a str, &'a RouteSchema)>,
) -> Arc<dyn AnyHandler> {
    let sent: Result<Arc<RawValue>, String> =
        to_raw_value(&node_schemas(service, routes)).map(Arc::from).map_err(|error| error.to_string());
    erased(move || {
        let sent = sent.clone().map_err(ServiceError::internal);
        async move { sent.map(Shared) }
    })
}

/// A text that is shared by all answers.
struct Shared(Arc<RawValue>);

impl Serialize for Shared {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

fn node_schemas<'a>(service: &'a str, routes: impl Iterator<Item = (&'a str, &'a RouteSchema)>) -> NodeSchemas<'a> {
    // Gateways put the definitions of all services below this path of their document.
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let routes = routes.map(|(route, schema)| SentSchema {
        route,
        summary: schema.summary,
        params: schema.params.map(|make| make(&mut generator)),
        result: schema.result.map(|make| make(&mut generator)),
        status: schema.status,
        in_parts: schema.in_parts,
        refusals: schema
            .refusals
            .iter()
            .map(|&(status, reason, message)| SentRefusal { status, reason, message })
            .collect(),
    });
    let routes = routes.collect();
    NodeSchemas { service, routes, definitions: generator.take_definitions(true) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "only its schema is used")]
    struct Category {
        name: String,
        parent: Option<Box<Self>>,
    }

    #[test]
    fn types_are_told_once_and_by_reference() {
        let known = RouteSchema::default().summary("Finds it.").params::<u64>().result::<Category>().status(201);
        let known = known.refusals(&[(404, "no_good", "there is none")]);
        let plain = RouteSchema::default().result::<Vec<Category>>().in_parts();
        let routes = [("GET/a", &known), ("GET/b", &plain)];
        let sent = serde_json::to_value(node_schemas("goods", routes.into_iter())).unwrap();
        let category = json!({ "$ref": "#/components/schemas/Category" });
        assert_eq!(sent["service"], "goods");
        assert_eq!(
            sent["routes"][0],
            json!({
                "route": "GET/a", "summary": "Finds it.", "status": 201, "result": category,
                "params": { "type": "integer", "format": "uint64", "minimum": 0 },
                "refusals": [{ "status": 404, "reason": "no_good", "message": "there is none" }]
            })
        );
        let parts = json!({ "route": "GET/b", "result": { "type": "array", "items": category }, "inParts": true });
        assert_eq!(sent["routes"][1], parts);
        assert_eq!(sent["definitions"]["Category"]["properties"]["name"], json!({ "type": "string" }));
    }

    #[test]
    fn the_route_has_the_name_of_the_node() {
        for (name, expected) in
            [("goods", Some("GET/$schema/goods")), ("a.b-c", Some("GET/$schema/a.b-c")), ("..", None)]
        {
            assert_eq!(schema_route(name).as_deref(), expected, "{name}");
        }
    }
}
