//! What a node tells of its routes: see docs/PROTOCOL.md, "Schemas". Pure.

use serde::Deserialize;
use serde_json::{Map, Value};

/// The schemas of a service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ServiceSchemas {
    pub(super) routes: Vec<RouteSchema>,
    pub(super) definitions: Map<String, Value>,
}

/// What a route takes and answers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct RouteSchema {
    pub(super) route: String,
    pub(super) summary: String,
    /// The schema of the arguments, with the parameters of the path.
    pub(super) params: Option<Value>,
    /// The schema of the result, or of its parts.
    pub(super) result: Option<Value>,
    pub(super) status: Option<u16>,
    /// Whether the result comes in parts.
    pub(super) in_parts: bool,
    pub(super) refusals: Vec<Refusal>,
}

/// An error that a route may answer with.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) reason: String,
    pub(super) message: String,
}

/// Where a document of OpenAPI has the schemas that others refer to.
const COMPONENTS: &str = "#/components/schemas/";

impl ServiceSchemas {
    /// Gives the definitions names that no other service has, here and where they are referred to.
    pub(super) fn rename(&mut self, service: &str) {
        let definitions = std::mem::take(&mut self.definitions);
        self.definitions = definitions.into_iter().map(|(name, value)| (component(service, &name), value)).collect();
        let routes = self.routes.iter_mut().flat_map(|route| [&mut route.params, &mut route.result]).flatten();
        for schema in routes.chain(self.definitions.values_mut()) {
            rename_references(schema, service);
        }
    }

    /// The members of a schema of an object, and those of them that are required.
    pub(super) fn members<'a>(&'a self, schema: &'a Value) -> Option<(&'a Map<String, Value>, Vec<&'a str>)> {
        let name = schema.get("$ref").and_then(Value::as_str).and_then(|at| at.strip_prefix(COMPONENTS));
        let schema = name.map_or(Some(schema), |name| self.definitions.get(name))?;
        let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
        Some((schema.get("properties")?.as_object()?, required.filter_map(Value::as_str).collect()))
    }
}

/// The name of a definition in the document: only letters, digits, and `._-`.
fn component(service: &str, name: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    format!("{service}.{name}").chars().map(|letter| if is_plain(letter) { letter } else { '_' }).collect()
}

/// Renames what a schema refers to. serde_json bounds how deep a schema is.
fn rename_references(schema: &mut Value, service: &str) {
    match schema {
        Value::Object(members) => {
            for (name, value) in members {
                match value {
                    Value::String(at) if name == "$ref" => {
                        if let Some(name) = at.strip_prefix(COMPONENTS) {
                            *at = format!("{COMPONENTS}{}", component(service, name));
                        }
                    }
                    other => rename_references(other, service),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename_references(item, service)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
