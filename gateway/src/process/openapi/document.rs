//! The OpenAPI document, made of routes and schemas. Pure.

use std::collections::BTreeMap;

use protocol::{Route, Segment};
use serde_json::{Map, Value, json};

use super::PublicRoute;
use super::schemas::{RouteSchema, ServiceSchemas};

/// The methods that OpenAPI 3.1 knows.
const METHODS: [&str; 8] = ["GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE"];
/// The methods of these whose arguments are a body.
const METHODS_WITH_BODY: [&str; 3] = ["POST", "PUT", "PATCH"];

/// A document of OpenAPI 3.1.
pub(super) struct Document {
    paths: Map<String, Value>,
    components: Map<String, Value>,
}

impl Document {
    /// A document of these routes, with the schemas of each service.
    pub(super) fn new(public: &BTreeMap<Route, PublicRoute>, mut known: BTreeMap<String, ServiceSchemas>) -> Self {
        known.iter_mut().for_each(|(service, schemas)| schemas.rename(service));
        let mut document = Self { paths: Map::new(), components: Map::new() };
        // The path of the first of several routes that differ only in the names of parameters.
        let mut paths = BTreeMap::<String, Vec<String>>::new();
        for (route, offered) in public.iter().filter(|(route, _)| METHODS.contains(&route.method())) {
            let shape = route.unnamed()[route.method().len()..].to_owned();
            let names = paths.entry(shape).or_insert_with(|| parameters(route).map(str::to_owned).collect());
            let schema = offered.services.iter().find_map(|service| {
                let schemas = known.get(service)?;
                Some((schemas, schemas.routes.iter().find(|schema| schema.route == route.as_str())?))
            });
            let operation = operation(route, names, offered, schema);
            let item = document.paths.entry(path(route, names)).or_insert_with(|| json!({}));
            item[route.method().to_ascii_lowercase()] = operation;
        }
        document.components = known.into_values().flat_map(|schemas| schemas.definitions).collect();
        document.components.insert("problem".to_owned(), problem());
        document
    }

    /// The document as JSON text.
    pub(super) fn write(self) -> String {
        let Self { paths, components } = self;
        let document = json!({
            "openapi": "3.1.0",
            "info": {
                "title": "Services",
                "version": env!("CARGO_PKG_VERSION"),
                "description": "The public routes that nodes have registered. Routes without schemas take and give any JSON."
            },
            "paths": paths,
            "components": { "schemas": components },
        });
        format!("{document:#}\n")
    }
}

/// One operation of a path.
fn operation(
    route: &Route,
    names: &[String],
    offered: &PublicRoute,
    schema: Option<(&ServiceSchemas, &RouteSchema)>,
) -> Value {
    let members = schema.and_then(|(schemas, schema)| schemas.members(schema.params.as_ref()?));
    let (properties, required) = members.clone().unzip();
    let required = required.unwrap_or_default();
    let own_names: Vec<&str> = parameters(route).collect();
    let property = |name: &str| properties.and_then(|properties: &Map<String, Value>| properties.get(name));
    // A route without members may have the whole arguments as its one parameter.
    let whole = schema.and_then(|(_, schema)| schema.params.as_ref()).filter(|_| members.is_none());
    let mut given: Vec<Value> = own_names
        .iter()
        .zip(names)
        .map(|(own, name)| {
            let schema = property(own).cloned().unwrap_or_else(|| json!({ "type": "string" }));
            json!({ "name": name, "in": "path", "required": true, "schema": schema })
        })
        .collect();
    let others = properties.into_iter().flatten().filter(|(name, _)| !own_names.contains(&name.as_str()));
    let mut operation = Map::new();
    if METHODS_WITH_BODY.contains(&route.method()) {
        let content = if offered.takes_raw_body {
            json!({ "*/*": {} })
        } else {
            let body = match (properties, whole) {
                (Some(_), _) => {
                    let others: Map<String, Value> =
                        others.map(|(name, value)| (name.clone(), value.clone())).collect();
                    let required: Vec<_> = required.iter().filter(|name| !own_names.contains(name)).collect();
                    json!({ "type": "object", "properties": others, "required": required })
                }
                (None, Some(whole)) => whole.clone(),
                (None, None) => json!({}),
            };
            json!({ "application/json": { "schema": body } })
        };
        operation.insert("requestBody".to_owned(), json!({ "content": content }));
    } else {
        given.extend(others.map(|(name, value)| {
            json!({ "name": name, "in": "query", "required": required.contains(&name.as_str()), "schema": value })
        }));
    }
    operation.insert("operationId".to_owned(), json!(route.as_str()));
    operation.insert("tags".to_owned(), json!(offered.services));
    operation.insert("parameters".to_owned(), json!(given));
    operation.insert("responses".to_owned(), responses(schema.map(|(_, schema)| schema)));
    if let Some((_, schema)) = schema
        && !schema.summary.is_empty()
    {
        operation.insert("summary".to_owned(), json!(schema.summary));
    }
    Value::Object(operation)
}

fn responses(schema: Option<&RouteSchema>) -> Value {
    let problem = json!({ "application/problem+json": { "schema": { "$ref": "#/components/schemas/problem" } } });
    let result = schema.and_then(|schema| schema.result.clone()).unwrap_or_else(|| json!({}));
    let in_parts = schema.is_some_and(|schema| schema.in_parts);
    let status = schema.and_then(|schema| schema.status).filter(|status| (200..600).contains(status)).unwrap_or(200);
    let success = match (status, in_parts) {
        (204, _) => json!({ "description": "It is done." }),
        (_, true) => json!({
            "description": "The parts of the result, each as a line or an event.",
            "content": { "application/x-ndjson": { "schema": result }, "text/event-stream": {} }
        }),
        (_, false) => json!({ "description": "The result.", "content": { "application/json": { "schema": result } } }),
    };
    let mut responses = Map::new();
    responses.insert(status.to_string(), success);
    for refusal in schema.into_iter().flat_map(|schema| &schema.refusals) {
        let text = if refusal.message.is_empty() { String::new() } else { format!(": {}", refusal.message) };
        let text = format!("`{}`{text}", refusal.reason);
        if (400..600).contains(&refusal.status) {
            let response = responses.entry(refusal.status.to_string());
            let response = response.or_insert_with(|| json!({ "description": "", "content": problem }));
            let before = response["description"].as_str().unwrap_or_default();
            let line = if before.is_empty() { text } else { format!("{before}; {text}") };
            response["description"] = json!(line);
        }
    }
    responses.insert("default".to_owned(), json!({ "description": "Why there is no result.", "content": problem }));
    Value::Object(responses)
}

/// The body of an error response (RFC 9457).
fn problem() -> Value {
    json!({
        "type": "object",
        "properties": {
            "type": { "type": "string" },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string" }
        }
    })
}

/// The path of a route, with these names for its parameters.
fn path(route: &Route, names: &[String]) -> String {
    let mut names = names.iter();
    route.segments().fold(String::new(), |path, segment| match segment {
        Segment::Literal(literal) => path + "/" + literal,
        Segment::Parameter(name) => path + "/{" + names.next().map_or(name, String::as_str) + "}",
    })
}

fn parameters(route: &Route) -> impl Iterator<Item = &str> {
    route.segments().filter_map(|segment| match segment {
        Segment::Parameter(name) => Some(name),
        Segment::Literal(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn document(routes: &[(&str, &str)], known: Value) -> Value {
        let mut public = BTreeMap::new();
        for (route, service) in routes {
            let services = BTreeSet::from([(*service).to_owned()]);
            public.insert(Route::parse(route).unwrap(), PublicRoute { services, takes_raw_body: false });
        }
        let known = serde_json::from_value(known).unwrap();
        serde_json::from_str(&Document::new(&public, known).write()).unwrap()
    }

    /// Checks one member of the document of these routes.
    #[track_caller]
    #[expect(clippy::needless_pass_by_value, reason = "a case is a line, with values as they are")]
    fn check(routes: &[(&str, &str)], known: Value, at: &str, expected: Value) {
        let document = document(routes, known);
        assert_eq!(document.pointer(at), Some(&expected), "{document:#}");
    }

    #[test]
    fn a_route_without_schemas_has_its_parameters() {
        let at = "/paths/~1goods~1{id}/get/parameters";
        let id = json!({ "name": "id", "in": "path", "required": true, "schema": { "type": "string" } });
        check(&[("GET/goods/{id}", "goods")], json!({}), at, json!([id]));
        let body = json!({ "content": { "application/json": { "schema": {} } } });
        check(&[("POST/goods", "goods")], json!({}), "/paths/~1goods/post/requestBody", body);
    }

    #[test]
    fn routes_that_differ_in_names_of_parameters_are_one_path() {
        let routes = [("GET/goods/{id}", "goods"), ("PUT/goods/{name}", "goods")];
        let document = document(&routes, json!({}));
        assert_eq!(document["paths"].as_object().unwrap().len(), 1);
        assert_eq!(document["paths"]["/goods/{id}"]["put"]["parameters"][0]["name"], "id");
    }

    #[test]
    fn a_method_that_openapi_does_not_know_is_left_out() {
        check(&[("PURGE/goods", "goods")], json!({}), "/paths", json!({}));
    }

    #[test]
    fn arguments_are_in_the_path_the_query_or_the_body() {
        let params = json!({
            "type": "object", "required": ["id", "name"],
            "properties": { "id": { "type": "integer" }, "name": { "type": "string" }, "n": { "default": 2 } }
        });
        let route = |route: &str| json!({ "shop": { "routes": [{ "route": route, "params": params }] } });
        let id = json!({ "name": "id", "in": "path", "required": true, "schema": { "type": "integer" } });
        let n = json!({ "name": "n", "in": "query", "required": false, "schema": { "default": 2 } });
        let name = json!({ "name": "name", "in": "query", "required": true, "schema": { "type": "string" } });
        let get = [("GET/a/{id}", "shop")];
        check(&get, route("GET/a/{id}"), "/paths/~1a~1{id}/get/parameters", json!([id, n, name]));
        let body = json!({
            "type": "object", "required": ["name"], "properties": { "name": { "type": "string" }, "n": { "default": 2 } }
        });
        let at = "/paths/~1a~1{id}/post/requestBody/content/application~1json/schema";
        check(&[("POST/a/{id}", "shop")], route("POST/a/{id}"), at, body);
        let whole = json!({ "shop": { "routes": [{ "route": "POST/a", "params": { "type": "array" } }] } });
        let at = "/paths/~1a/post/requestBody/content/application~1json/schema";
        check(&[("POST/a", "shop")], whole, at, json!({ "type": "array" }));
    }

    #[test]
    fn results_and_refusals_are_responses() {
        let refusals = json!([
            { "status": 404, "reason": "no_good", "message": "there is none" },
            { "status": 404, "reason": "gone", "message": "" },
            { "status": 7, "reason": "strange" }
        ]);
        let known = json!({ "shop": { "routes": [{ "route": "GET/a", "status": 201, "refusals": refusals }] } });
        let routes = [("GET/a", "shop")];
        check(
            &routes,
            known.clone(),
            "/paths/~1a/get/responses/404/description",
            json!("`no_good`: there is none; `gone`"),
        );
        let responses = document(&routes, known)["paths"]["/a"]["get"]["responses"].clone();
        assert_eq!(responses.as_object().unwrap().keys().collect::<Vec<_>>(), ["201", "404", "default"]);
        let nothing = json!({ "shop": { "routes": [{ "route": "GET/a", "status": 204 }] } });
        check(&routes, nothing, "/paths/~1a/get/responses/204", json!({ "description": "It is done." }));
    }

    #[test]
    fn definitions_of_two_services_do_not_mix() {
        let of = |text: &str| {
            json!({
                "routes": [{ "route": "GET/a", "result": { "$ref": "#/components/schemas/Good<T>" } }],
                "definitions": { "Good<T>": { "title": text, "anyOf": [{ "$ref": "#/components/schemas/Good<T>" }] } }
            })
        };
        let known = json!({ "one": of("1"), "two": of("2") });
        let routes = [("GET/a", "two")];
        let reference = json!({ "$ref": "#/components/schemas/two.Good_T_" });
        let at = "/paths/~1a/get/responses/200/content/application~1json/schema";
        check(&routes, known.clone(), at, reference.clone());
        let definition = json!({ "title": "2", "anyOf": [reference] });
        check(&routes, known.clone(), "/components/schemas/two.Good_T_", definition);
        check(&routes, known, "/components/schemas/one.Good_T_/title", json!("1"));
    }
}
