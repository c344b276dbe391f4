//! The url of a typed call.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::Value;

use crate::error::CallError;

/// Characters that a path does not escape: RFC 3986, 2.3.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A url that is written from its route, piece by piece.
#[derive(Debug)]
pub struct ServiceUrl {
    route: &'static str,
    text: Result<String, CallError>,
}

impl ServiceUrl {
    /// An empty text, for a url of this route.
    pub fn new(route: &'static str) -> Self {
        Self { route, text: Ok(String::with_capacity(route.len() + 16)) }
    }

    /// Appends a text as it is.
    pub fn text(mut self, text: &str) -> Self {
        if let Ok(url) = &mut self.text {
            url.push_str(text);
        }
        self
    }

    /// Appends an argument as a segment of the path. The call fails if no segment can hold it.
    pub fn parameter(mut self, argument: &impl Serialize) -> Self {
        const REASON: &str = "a parameter of its path is empty, or is not a text, a number or a bool";
        let Ok(url) = &mut self.text else { return self };
        match serde_json::to_value(argument) {
            Ok(Value::String(text)) if !text.is_empty() => url.extend(utf8_percent_encode(&text, ESCAPED)),
            Ok(value @ (Value::Number(_) | Value::Bool(_))) => url.push_str(&value.to_string()),
            Ok(Value::String(_) | Value::Null | Value::Array(_) | Value::Object(_)) => {
                self.text = Err(CallError::BadUrl { url: self.route.to_owned(), reason: REASON });
            }
            Err(source) => self.text = Err(CallError::Params { url: self.route.to_owned(), source }),
        }
        self
    }

    /// The route, and the url or why there is none.
    pub(super) fn finish(self) -> (&'static str, Result<String, CallError>) {
        (self.route, self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_segments_of_the_path() {
        #[track_caller]
        fn check(argument: &impl Serialize, expected: Option<&str>) {
            let url = ServiceUrl::new("GET/goods/{id}/x").text("GET/goods/").parameter(argument).text("/x").finish().1;
            match expected {
                Some(segment) => assert_eq!(url.unwrap(), format!("GET/goods/{segment}/x")),
                None => assert!(matches!(url, Err(CallError::BadUrl { .. })), "{url:?}"),
            }
        }
        check(&7, Some("7"));
        check(&u64::MAX, Some("18446744073709551615"));
        check(&-1.5, Some("-1.5"));
        check(&true, Some("true"));
        check(&"한 b/c", Some("%ED%95%9C%20b%2Fc"));
        check(&"", None);
        check(&None::<u64>, None);
        check(&[1], None);
    }
}
