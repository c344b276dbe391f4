//! Arguments of a call: read into the handler's type, and joined with what a path says.

use std::borrow::Cow;
use std::fmt;

use percent_encoding::percent_decode_str;
use serde::de::value::{MapDeserializer, StringDeserializer};
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error, IntoDeserializer, MapAccess, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::value::RawValue;

/// Reads arguments into a type. A member that comes as text, as all do from a query string, is read as the number or
/// truth value that the type wants.
///
/// The error names the member at fault.
pub(crate) fn read<T: DeserializeOwned>(params: Option<&RawValue>) -> Result<T, serde_json::Error> {
    let text = params.map_or("null", RawValue::get);
    if text.trim_ascii_start().starts_with('{') {
        let Members(members) = serde_json::from_str(text)?;
        let members = members.into_iter().map(|(name, value)| {
            let value = Member { name: name.clone().into_owned(), value };
            (name.into_owned(), value)
        });
        T::deserialize(MapDeserializer::new(members))
    } else {
        serde_json::from_str(text)
    }
}

/// Adds what a path says to arguments, decoded; a member of the same name gives way. Arguments that are no object stay.
pub(crate) fn merge<'a>(params: &'a str, from_path: impl Iterator<Item = (&'a str, &'a str)>) -> Cow<'a, str> {
    let from_path: Vec<_> = from_path.collect();
    if from_path.is_empty() {
        return Cow::Borrowed(params);
    }
    let text = if params == "null" { "{}" } else { params };
    let Ok(Members(members)) = serde_json::from_str(text) else { return Cow::Borrowed(params) };
    let kept = members.iter().filter(|(name, _)| from_path.iter().all(|(other, _)| name != other));
    let kept = kept.map(|(name, value)| format!("{}:{}", to_json(name), value.get()));
    let added = from_path
        .iter()
        .map(|(name, value)| format!("{}:{}", to_json(name), to_json(&percent_decode_str(value).decode_utf8_lossy())));
    Cow::Owned(format!("{{{}}}", kept.chain(added).collect::<Vec<_>>().join(",")))
}

fn to_json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The members of an object in order.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((protocol::Text(name), value)) = map.next_entry()? {
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// One member's value, which may be a number in quotes.
struct Member<'a> {
    name: String,
    value: &'a RawValue,
}

impl Member<'_> {
    fn named(&self, error: &serde_json::Error) -> serde_json::Error {
        Error::custom(format_args!("member `{}`: {error}", self.name.escape_debug()))
    }
}

impl<'de> IntoDeserializer<'de, serde_json::Error> for Member<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// The number or truth value that JSON text holds in quotes; any other text as it is.
fn unquoted(json: &str) -> &str {
    let inside = json.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let says_more =
        |text: &&str| matches!(*text, "true" | "false") || serde_json::from_str::<serde_json::Number>(text).is_ok();
    inside.filter(says_more).unwrap_or(json)
}

/// Text is read as what it says when a number or truth value is wanted; everything else is plain JSON.
macro_rules! read_text_as {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
            let json = unquoted(self.value.get());
            let mut deserializer = serde_json::Deserializer::from_str(json);
            let result = deserializer.$method(visitor).and_then(|value| deserializer.end().map(|()| value));
            result.map_err(|error| self.named(&error))
        })*
    };
}

impl<'de> Deserializer<'de> for Member<'de> {
    type Error = serde_json::Error;

    read_text_as! {
        deserialize_bool
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        deserialize_f32 deserialize_f64
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        serde_json::Deserializer::from_str(self.value.get()).deserialize_any(visitor).map_err(|e| self.named(&e))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        if self.value.get() == "null" { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        let result = match serde_json::from_str::<String>(self.value.get()) {
            Ok(text) => {
                let text: StringDeserializer<serde_json::Error> = text.into_deserializer();
                text.deserialize_enum(name, variants, visitor)
            }
            Err(_) => serde_json::Deserializer::from_str(self.value.get()).deserialize_enum(name, variants, visitor),
        };
        result.map_err(|error| self.named(&error))
    }

    forward_to_deserialize_any! {
        char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Good {
        id: u64,
        name: String,
        #[serde(default)]
        price: Option<f64>,
        #[serde(default)]
        sold: bool,
        #[serde(default)]
        size: Option<Size>,
        #[serde(default)]
        tags: Vec<String>,
    }

    #[derive(Debug, PartialEq, serde::Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Size {
        Small,
    }

    #[track_caller]
    fn check(params: &str, expected: Result<Good, &str>) {
        let params: Option<&RawValue> = Some(serde_json::from_str(params).unwrap());
        let seen = read::<Good>(params).map_err(|error| error.to_string());
        match (&seen, &expected) {
            (Err(seen), Err(expected)) => assert!(seen.contains(expected), "{seen}"),
            _ => assert_eq!(seen, expected.map_err(str::to_owned)),
        }
    }

    fn good() -> Good {
        Good {
            id: 7,
            name: "가\n".to_owned(),
            price: Some(9.5),
            sold: true,
            size: Some(Size::Small),
            tags: vec!["a".to_owned()],
        }
    }

    #[test]
    fn json_and_query_strings_read_alike() {
        check(r#"{"id":7,"name":"가\n","price":9.5,"sold":true,"size":"small","tags":["a"],"key":1}"#, Ok(good()));
        check(r#"{"id":"7","name":"가\n","price":"9.5","sold":"true","size":"small","tags":["a"]}"#, Ok(good()));
    }

    #[test]
    fn errors_name_the_member() {
        check("{}", Err("missing field `id`"));
        check(r#"{"id":"x","name":""}"#, Err("member `id`: invalid type: string \"x\", expected u64"));
        check(r#"{"id":7,"name":7}"#, Err("member `name`: invalid type: integer `7`, expected a string"));
        check(r#"{"id":-1,"name":""}"#, Err("member `id`"));
        check(r#"{"id":7.5,"name":""}"#, Err("member `id`"));
        check(r#"{"id":7,"name":"","size":"huge"}"#, Err("member `size`: unknown variant `huge`"));
        check("[]", Err("invalid length"));
        check("null", Err("invalid type: null"));
    }

    #[test]
    fn any_type_can_be_read() {
        let params: &RawValue = serde_json::from_str(r#"{"a":"1","b":{"c":[]}}"#).unwrap();
        assert_eq!(read::<serde_json::Value>(Some(params)).unwrap().to_string(), params.get());
        let texts: BTreeMap<String, serde_json::Value> = read(Some(params)).unwrap();
        assert_eq!(texts["a"], "1");
        assert_eq!(read::<Option<u8>>(None).unwrap(), None);
    }

    #[test]
    fn a_path_adds_to_the_arguments() {
        for (params, from_path, expected) in [
            ("{}", vec![], "{}"),
            ("{}", vec![("id", "7")], r#"{"id":"7"}"#),
            ("null", vec![("id", "7")], r#"{"id":"7"}"#),
            (r#"{"id":1,"a":[1]}"#, vec![("id", "%ED%95%9C%22"), ("b", "x")], r#"{"a":[1],"id":"한\"","b":"x"}"#),
            ("7", vec![("id", "7")], "7"),
        ] {
            assert_eq!(merge(params, from_path.into_iter()), expected);
        }
    }
}
