//! The arguments of calls in another dialect than ours: a template of members, each from a part of
//! the request.

use std::net::IpAddr;

use crate::message::fields::Fields;

/// The members of `params`, in order. A value of a request can only become the value of its own
/// member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParamsTemplate {
    /// The names of members, each with the source of its value.
    pub members: Vec<(String, ParamSource)>,
}

/// A part of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParamSource {
    /// The arguments that a call has without a template: the body of `POST`, `PUT` and `PATCH`, and
    /// the query of others.
    Arguments,
    /// The body; `{}` when there is none.
    Body,
    /// The query, as an object of texts.
    Query,
    /// The parameters of the path, as an object of texts.
    Path,
    /// A header as text, or `null`.
    Header(String),
    /// The client's address as text.
    Client,
}

/// The parts of one request. All but the last two are JSON.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestParts<'a> {
    pub(crate) body: Option<&'a str>,
    pub(crate) query: &'a str,
    pub(crate) path: &'a str,
    pub(crate) fields: &'a Fields,
    pub(crate) client: IpAddr,
}

/// Members of a template: more than any service has.
const MAX_MEMBERS: usize = 32;

impl ParamsTemplate {
    /// Reads a template.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(crate) fn parse<'a>(members: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, String> {
        let members = members.into_iter().map(|(name, source)| {
            if name == "key" {
                return Err("`key` is the key of the call, which the gateway adds".to_owned());
            }
            Ok((name.to_owned(), ParamSource::parse(source)?))
        });
        let members = members.collect::<Result<Vec<_>, _>>()?;
        match members.len() {
            0 => Err("`params` names at least one member, such as { data = \"body\" }".to_owned()),
            1..=MAX_MEMBERS => Ok(Self { members }),
            _ => Err(format!("`params` has at most {MAX_MEMBERS} members")),
        }
    }

    /// Whether the parameters of the path are asked for.
    pub(crate) fn takes_path(&self) -> bool {
        self.members.iter().any(|(_, source)| *source == ParamSource::Path)
    }

    /// `params` of a request, as JSON text.
    pub(crate) fn fill(&self, parts: &RequestParts<'_>) -> String {
        let members = self.members.iter().map(|(name, source)| {
            let value = match source {
                ParamSource::Arguments => parts.body.unwrap_or(parts.query).to_owned(),
                ParamSource::Body => parts.body.unwrap_or("{}").to_owned(),
                ParamSource::Query => parts.query.to_owned(),
                ParamSource::Path => parts.path.to_owned(),
                ParamSource::Header(name) => parts
                    .fields
                    .get(name)
                    .map_or_else(|| "null".to_owned(), |value| text(&String::from_utf8_lossy(value))),
                ParamSource::Client => text(&parts.client.to_string()),
            };
            format!("{}:{value}", text(name))
        });
        format!("{{{}}}", members.collect::<Vec<_>>().join(","))
    }
}

impl ParamSource {
    fn parse(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("header:")) {
            ("arguments", _) => Ok(Self::Arguments),
            ("body", _) => Ok(Self::Body),
            ("query", _) => Ok(Self::Query),
            ("path", _) => Ok(Self::Path),
            ("client", _) => Ok(Self::Client),
            (_, Some(name)) if http::HeaderName::from_bytes(name.as_bytes()).is_ok() => {
                Ok(Self::Header(name.to_ascii_lowercase()))
            }
            _ => Err(format!(
                "`{text}`: a member is from \"arguments\", \"body\", \"query\", \"path\", \"client\", or a header as in \"header:Authorization\""
            )),
        }
    }
}

fn text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(template: &[(&str, &str)], body: Option<&str>, expected: &str) {
        let fields = Fields::from_pairs(&[("Authorization", "Bearer \"x\""), ("X-User-Id", "7")]);
        let parts = RequestParts {
            body,
            query: r#"{"page":"2"}"#,
            path: r#"{"id":"9"}"#,
            fields: &fields,
            client: "10.0.0.1".parse().unwrap(),
        };
        let template = ParamsTemplate::parse(template.iter().copied()).unwrap();
        assert_eq!(template.fill(&parts), expected);
    }

    #[test]
    fn e3_a_template_has_the_members_of_another_dialect() {
        check(
            &[("data", "arguments"), ("authorization", "header:authorization")],
            Some(r#"{"a":[1]}"#),
            r#"{"data":{"a":[1]},"authorization":"Bearer \"x\""}"#,
        );
        check(&[("data", "arguments")], None, r#"{"data":{"page":"2"}}"#);
        // A client cannot say who it is in its body.
        check(
            &[("userId", "header:X-User-Id"), ("bodies", "body"), ("params", "path"), ("query", "query")],
            Some(r#"{"userId":1}"#),
            r#"{"userId":"7","bodies":{"userId":1},"params":{"id":"9"},"query":{"page":"2"}}"#,
        );
        check(
            &[("body", "body"), ("a\"b", "client"), ("c", "header:cookie")],
            None,
            r#"{"body":{},"a\"b":"10.0.0.1","c":null}"#,
        );
    }

    #[test]
    fn e3_what_makes_no_sense_is_refused() {
        for (template, part) in [
            (vec![], "at least one member"),
            (vec![("key", "body")], "which the gateway adds"),
            (vec![("a", "bodies")], "`bodies`: a member is from"),
            (vec![("a", "header:")], "a member is from"),
            (vec![("a", "header:x y")], "a member is from"),
            (vec![("a", "body"); 33], "at most 32"),
        ] {
            let error = ParamsTemplate::parse(template).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
