//! The arguments of a call, read into the handler's type.

use percent_encoding::percent_decode_str;
use protocol::{Members, Route};
use serde::de::value::{MapDeserializer, SeqDeserializer, StringDeserializer};
use serde::de::{DeserializeOwned, Deserializer, Error, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::value::RawValue;

use super::param_forms::{ParamForm, ParamForms, is_number};
use crate::routing::path_params::{names, to_json};

/// Reads arguments into a type. A member that is text, as all members of a query string are, is
/// read as the number or boolean that the type wants.
///
/// The error names the member at fault.
pub(crate) fn read<T: DeserializeOwned>(text: &str) -> Result<T, serde_json::Error> {
    // Most arguments can be read once, as they are.
    let error = match serde_json::from_str(text) {
        Ok(read) => return Ok(read),
        Err(error) => error,
    };
    if text.trim_ascii_start().starts_with('{') {
        // All of it must be JSON before single members are read.
        serde_json::from_str::<&RawValue>(text)?;
        return read_object(text);
    }
    // A type that needs no members accepts absent arguments.
    if text == "null" { read_object("{}").map_err(|_| error) } else { Err(error) }
}

fn read_object<T: DeserializeOwned>(object: &str) -> Result<T, serde_json::Error> {
    let mut forms = ParamForms::default();
    let mut error = match T::deserialize(ParamObject { object, forms: &forms }) {
        Ok(read) => return Ok(read),
        Err(error) => error,
    };
    while let Some(keeps_error) = forms.change(object, &error) {
        match T::deserialize(ParamObject { object, forms: &forms }) {
            Ok(read) => return Ok(read),
            // The type wants something there, and the caller has given it an empty text.
            Err(next) if keeps_error && next.to_string().starts_with("invalid type: null") => return Err(error),
            Err(next) => error = next,
        }
    }
    Err(error)
}

/// Reads the parameters of a path: one into a value, several into a tuple in order, or into a type
/// whose members have the parameters' names.
pub(crate) fn read_path<T: DeserializeOwned>(route: &Route, captured: &[&str]) -> Result<T, serde_json::Error> {
    let values = captured.iter().map(|text| to_json(&percent_decode_str(text).decode_utf8_lossy()));
    let values: Vec<String> = values.collect();
    let raw: Result<Vec<&RawValue>, _> = values.iter().map(|value| serde_json::from_str(value)).collect();
    T::deserialize(PathValues { names: names(route).collect(), values: raw? })
}

/// The parameters of a path, for types of any shape.
struct PathValues<'a> {
    names: Vec<&'a str>,
    values: Vec<&'a RawValue>,
}

impl<'a> PathValues<'a> {
    fn members(self) -> impl Iterator<Item = (&'a str, ParamValue<'a>)> {
        let member = |(name, value): (&'a str, &'a RawValue)| {
            (name, ParamValue { name: name.to_owned(), value, form: ParamForm::default() })
        };
        self.names.into_iter().zip(self.values).map(member)
    }
}

macro_rules! of_one {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
            match self.members().next() {
                Some((_, member)) => member.into_deserializer().$method(visitor),
                None => Err(Error::custom("the route has no parameter")),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for PathValues<'de> {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_map(MapDeserializer::new(self.members()))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_seq(SeqDeserializer::new(self.members().map(|(_, member)| member)))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Self::Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        match self.members().next() {
            Some((_, member)) => member.into_deserializer().deserialize_enum(name, variants, visitor),
            None => Err(Error::custom("the route has no parameter")),
        }
    }

    of_one! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        deserialize_f32 deserialize_f64 deserialize_char deserialize_str deserialize_string deserialize_option
    }

    forward_to_deserialize_any! {
        bytes byte_buf unit unit_struct map struct identifier ignored_any
    }
}

/// Arguments that are a JSON object.
struct ParamObject<'a> {
    object: &'a str,
    forms: &'a ParamForms,
}

impl<'de> ParamObject<'de> {
    fn json(&self) -> serde_json::Deserializer<serde_json::de::StrRead<'de>> {
        serde_json::Deserializer::from_str(self.object)
    }
}

impl<'de> Deserializer<'de> for ParamObject<'de> {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        let Members(members) = serde_json::from_str(self.object)?;
        let members = members.into_iter().map(|(name, value)| {
            let value = ParamValue { name: name.clone().into_owned(), value, form: self.forms.of(&name) };
            (name.into_owned(), value)
        });
        visitor.visit_map(MapDeserializer::new(members))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        if is_raw(name) {
            self.json().deserialize_newtype_struct(name, visitor)
        } else {
            visitor.visit_newtype_struct(self)
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.json().deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

/// Whether a type is serde_json's own `RawValue`, which only its own deserializer can make.
fn is_raw(name: &str) -> bool {
    name.starts_with("$serde_json::private::")
}

/// The value of one member, which may be a number in quotes.
struct ParamValue<'a> {
    name: String,
    value: &'a RawValue,
    form: ParamForm,
}

impl ParamValue<'_> {
    fn named(&self, error: &serde_json::Error) -> serde_json::Error {
        Error::custom(format_args!("member `{}`: {error}", self.name.escape_debug()))
    }
}

impl<'de> IntoDeserializer<'de, serde_json::Error> for ParamValue<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// The number or boolean that JSON text holds in quotes; any other text as it is.
fn unquoted(json: &str) -> &str {
    let inside = json.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    inside.filter(|text| is_number(text)).unwrap_or(json)
}

/// Text is read as a number or boolean where the type wants one; everything else is plain JSON.
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

impl<'de> Deserializer<'de> for ParamValue<'de> {
    type Error = serde_json::Error;

    read_text_as! {
        deserialize_bool
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        deserialize_f32 deserialize_f64
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        let ParamForm { is_number, is_list, is_absent, .. } = self.form;
        if is_absent {
            return visitor.visit_unit();
        }
        if is_list || is_number && self.value.get().starts_with('[') {
            return self.deserialize_seq(visitor);
        }
        let json = if is_number { unquoted(self.value.get()) } else { self.value.get() };
        serde_json::Deserializer::from_str(json).deserialize_any(visitor).map_err(|e| self.named(&e))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        if self.form.is_absent || self.value.get() == "null" { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        if is_raw(name) {
            return serde_json::Deserializer::from_str(self.value.get()).deserialize_newtype_struct(name, visitor);
        }
        visitor.visit_newtype_struct(self)
    }

    /// A query string has no lists. A single text is a list of one element, and elements are read
    /// like members.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        let elements: Vec<&RawValue> = match self.value.get().as_bytes().first() {
            Some(b'"') => vec![self.value],
            _ => serde_json::from_str(self.value.get()).map_err(|error| self.named(&error))?,
        };
        let form = ParamForm { is_list: false, ..self.form };
        let elements = elements.into_iter().map(|value| ParamValue { name: self.name.clone(), value, form });
        visitor.visit_seq(SeqDeserializer::new(elements))
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
        char str string bytes byte_buf unit unit_struct tuple tuple_struct map struct identifier ignored_any
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
        check(r#"{"id":7,"name":"","tags":[1]}"#, Err("member `tags`"));
    }

    #[test]
    fn shapes_of_all_kinds() {
        #[derive(Debug, PartialEq, serde::Deserialize)]
        struct Wrapped(Filter);
        #[derive(Debug, Default, PartialEq, serde::Deserialize)]
        #[serde(default)]
        struct Filter {
            tags: Vec<String>,
            ids: Option<Vec<u8>>,
        }
        #[derive(Debug, PartialEq, serde::Deserialize)]
        enum Either {
            Left(u8),
        }
        fn shape<T: DeserializeOwned>(params: &str) -> T {
            read(params).unwrap()
        }
        let filter = || Filter { tags: vec!["a".to_owned()], ids: Some(vec![1, 2]) };
        assert_eq!(shape::<Filter>(r#"{"tags":"a","ids":["1",2]}"#), filter());
        assert_eq!(shape::<Wrapped>(r#"{"tags":["a"],"ids":[1,"2"]}"#), Wrapped(filter()));
        assert_eq!(shape::<Option<Filter>>(r#"{"tags":"a","ids":[1,2]}"#), Some(filter()));
        assert_eq!(read::<Filter>("null").unwrap(), Filter::default());
        assert_eq!(shape::<Either>(r#"{"Left":1}"#), Either::Left(1));
        assert_eq!(shape::<Box<RawValue>>(r#"{"a": 1}"#).get(), r#"{"a": 1}"#);
        assert_eq!(shape::<BTreeMap<String, Box<RawValue>>>(r#"{"a":"1"}"#)["a"].get(), "\"1\"");
    }

    #[test]
    fn any_type_can_be_read() {
        let params = r#"{"a":"1","b":{"c":[]}}"#;
        assert_eq!(read::<serde_json::Value>(params).unwrap().to_string(), params);
        let texts: BTreeMap<String, serde_json::Value> = read(params).unwrap();
        assert_eq!(texts["a"], "1");
        assert_eq!(read::<Option<u8>>("null").unwrap(), None);
        assert!(read::<Good>("{\"id\":7,").is_err(), "it is not JSON");
    }

    #[test]
    fn a_path_is_read_as_what_the_handler_wants() {
        #[derive(Debug, PartialEq, serde::Deserialize)]
        struct Named {
            id: u64,
            tag: String,
        }
        #[derive(Debug, PartialEq, serde::Deserialize)]
        struct Id(u64);
        let route = |text| Route::parse(text).unwrap();
        let (one, two) = (route("GET/goods/{id}"), route("GET/goods/{id}/tags/{tag}"));
        assert_eq!(read_path::<u64>(&one, &["7"]).unwrap(), 7);
        assert_eq!(read_path::<Id>(&one, &["7"]).unwrap(), Id(7));
        assert_eq!(read_path::<String>(&one, &["%ED%95%9C%22"]).unwrap(), "한\"");
        assert_eq!(read_path::<Size>(&one, &["small"]).unwrap(), Size::Small);
        assert_eq!(read_path::<(u64, String)>(&two, &["7", "x"]).unwrap(), (7, "x".to_owned()));
        assert_eq!(read_path::<Named>(&two, &["7", "x"]).unwrap(), Named { id: 7, tag: "x".to_owned() });
        assert_eq!(read_path::<BTreeMap<String, String>>(&two, &["7", "x"]).unwrap()["tag"], "x");
        let error = read_path::<u64>(&one, &["seven"]).unwrap_err().to_string();
        assert!(error.contains("member `id`"), "{error}");
        assert!(read_path::<u64>(&route("GET/goods"), &[]).is_err());
    }

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Flat {
        name: String,
        #[serde(flatten)]
        page: Page,
    }

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Page {
        from: u64,
        count: Option<u8>,
        word: Option<String>,
        #[serde(default)]
        ids: Vec<u64>,
        #[serde(default)]
        all: bool,
    }

    #[test]
    fn b9_flattened_members_read_from_a_query_string() {
        type Expected<'a> = Result<(u64, Option<u8>, Option<&'a str>, &'a [u64], bool), &'a str>;
        #[track_caller]
        fn check(params: &str, expected: Expected<'_>) {
            let seen = read::<Flat>(params).map_err(|error| error.to_string());
            match (seen, expected) {
                (Ok(Flat { name, page }), Ok((from, count, word, ids, all))) => {
                    let word = word.map(str::to_owned);
                    assert_eq!((&*name, page), ("7", Page { from, count, word, ids: ids.to_vec(), all }), "{params}");
                }
                (Err(seen), Err(expected)) => assert!(seen.contains(expected), "{params}: {seen}"),
                (seen, expected) => panic!("{params}: {seen:?}, not {expected:?}"),
            }
        }
        check(r#"{"name":"7","from":"1"}"#, Ok((1, None, None, &[], false)));
        check(r#"{"name":"7","from":7,"count":8}"#, Ok((7, Some(8), None, &[], false)));
        check(r#"{"name":"7","from":"7","all":"true","count":"20"}"#, Ok((7, Some(20), None, &[], true)));
        // The same text is a number in one place, and a text in another.
        check(r#"{"name":"7","word":"7","from":"7"}"#, Ok((7, None, Some("7"), &[], false)));
        check(r#"{"name":"7","from":"7","ids":"3"}"#, Ok((7, None, None, &[3], false)));
        check(r#"{"name":"7","from":"7","ids":["3","4"]}"#, Ok((7, None, None, &[3, 4], false)));
        check(r#"{"name":"7","from":"7","count":"","word":""}"#, Ok((7, None, Some(""), &[], false)));
        check(r#"{"name":"7","from":"x"}"#, Err("invalid type: string \"x\", expected u64"));
        check(r#"{"name":"7","from":""}"#, Err("invalid type: string \"\", expected u64"));
        check(r#"{"name":"7"}"#, Err("missing field `from`"));
    }

    #[test]
    fn b9_an_empty_text_is_not_a_number_of_an_option() {
        #[derive(Debug, Default, PartialEq, serde::Deserialize)]
        #[serde(default)]
        struct Options {
            min: Option<u64>,
            most: Option<f64>,
            sold: Option<bool>,
            size: Option<Size>,
            word: Option<String>,
            page: u64,
        }
        #[track_caller]
        fn check(params: &str, expected: Result<Options, &str>) {
            match (read::<Options>(params), expected) {
                (Err(seen), Err(expected)) => assert!(seen.to_string().starts_with(expected), "{params}: {seen}"),
                (seen, expected) => {
                    assert_eq!(seen.map_err(|error| error.to_string()), expected.map_err(str::to_owned))
                }
            }
        }
        check(r#"{"min":""}"#, Ok(Options::default()));
        check(r#"{"min":"","most":"","sold":"","size":""}"#, Ok(Options::default()));
        // A text may be empty.
        let word = || Some(String::new());
        check(r#"{"word":""}"#, Ok(Options { word: word(), ..Options::default() }));
        check(r#"{"word":"","min":"","page":"3"}"#, Ok(Options { word: word(), page: 3, ..Options::default() }));
        check(r#"{"page":""}"#, Err("member `page`: invalid type: string \"\", expected u64"));
        check(r#"{"min":"","page":"x"}"#, Err("member `page`: invalid type: string \"x\", expected u64"));
    }
}
