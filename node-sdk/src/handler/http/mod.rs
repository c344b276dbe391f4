//! HTTP for handlers: arguments that read the request of a gateway's client, and results with
//! header fields.
//!
//! It must not parse or write packets: `protocol` does, and `response_sink` calls it. It must not
//! know connections.

mod bearer;
mod body;
pub(crate) mod cookie;
mod cookies;
mod headers;
mod redirect;
mod request;
mod response;
mod server_event;

use std::sync::{Mutex, PoisonError};

use net::{KeyedThrottle, error};
use protocol::{WantedHeaders, is_field_name};
use tokio::time::Instant;

pub use self::bearer::Bearer;
pub use self::body::{Binary, BodyStream, ByteStream, Html, RawBody, Text};
pub use self::cookie::{Cookie, SameSite};
pub use self::cookies::Cookies;
pub use self::headers::Headers;
pub use self::redirect::Redirect;
pub use self::request::{ClientAddress, HttpRequest};
pub use self::response::HttpResponse;
pub use self::server_event::{LastEventId, ServerEvent, StreamItem};
use crate::error::{ServiceError, StartError};
use crate::handler::IncomingCall;

/// What the arguments of a route read of a client's request: see
/// [`FromCall::wants`](crate::FromCall::wants).
#[derive(Clone, Debug, Default)]
pub struct Wants {
    is_any: bool,
    is_raw_body: bool,
    is_body_stream: bool,
    is_byte_stream: bool,
    names: Vec<String>,
}

impl Wants {
    /// The request without its header fields: method, path, query, host, address of the client.
    pub fn request(&mut self) {
        self.is_any = true;
    }

    /// The header fields of this name, in any case of letters, and the request.
    pub fn header(&mut self, name: impl Into<String>) {
        self.is_any = true;
        self.names.push(name.into());
    }

    /// The body as it was sent, and the request.
    pub fn raw_body(&mut self) {
        (self.is_any, self.is_raw_body) = (true, true);
    }

    /// The body as it was sent, in parts as it arrives, and the request.
    pub fn body_stream(&mut self) {
        self.raw_body();
        self.is_body_stream = true;
    }

    /// Says that the result may be a stream of bytes, which only gateways take: of a result that is
    /// made of a [`ByteStream`].
    pub fn byte_stream(&mut self) {
        (self.is_any, self.is_byte_stream) = (true, true);
    }

    /// Whether the body is wanted as it was sent.
    pub(crate) fn is_raw_body(&self) -> bool {
        self.is_raw_body
    }

    /// Whether the body is wanted in parts.
    pub(crate) fn is_body_stream(&self) -> bool {
        self.is_body_stream
    }

    /// Whether the result may be a stream of bytes.
    pub(crate) fn is_byte_stream(&self) -> bool {
        self.is_byte_stream
    }

    /// What is registered; `None` if nothing is wanted.
    ///
    /// # Errors
    /// A name that no header field can have, or how many names there are if these are too many.
    pub(crate) fn registered(&self) -> Result<Option<WantedHeaders>, WrongWants> {
        if let Some(name) = self.names.iter().find(|name| !is_field_name(name)) {
            return Err(WrongWants::Name(name.clone()));
        }
        let mut names: Vec<String> = self.names.iter().map(|name| name.to_ascii_lowercase()).collect();
        names.sort_unstable();
        names.dedup();
        if names.len() > WantedHeaders::MAX_NAMES {
            return Err(WrongWants::Count(names.len()));
        }
        Ok(self.is_any.then(|| WantedHeaders::new(&names)))
    }
}

/// Why what a route wants cannot be registered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum WrongWants {
    /// No header field can have this name.
    Name(String),
    /// The number of names, which is too large.
    Count(usize),
}

impl WrongWants {
    /// Why the node of this route does not start.
    pub(crate) fn into_error(self, route: &str) -> StartError {
        let route = route.to_owned();
        match self {
            Self::Name(name) => StartError::HeaderName { route, name },
            Self::Count(count) => StartError::HeaderCount { route, count, max: WantedHeaders::MAX_NAMES },
        }
    }
}

/// The values of the header fields of one name; none if no gateway calls.
///
/// # Errors
/// The route does not want the field: 500, and the log says what to do.
fn header_values<'c>(
    call: &'c IncomingCall<'_>,
    name: &'static str,
) -> Result<impl Iterator<Item = &'c str>, ServiceError> {
    if !call.wanted.is_some_and(|wanted| wanted.contains(name.as_bytes())) {
        return Err(unstated(name));
    }
    let fields = call.client.into_iter().flat_map(|client| &client.headers);
    Ok(fields.filter(move |(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| &**value))
}

/// The error when an argument reads what its type does not say that it wants.
fn unstated(what: &'static str) -> ServiceError {
    static LOG_THROTTLE: Mutex<Option<KeyedThrottle>> = Mutex::new(None);
    let mut log_throttle = LOG_THROTTLE.lock().unwrap_or_else(PoisonError::into_inner);
    let suppressed = log_throttle.get_or_insert_default().allow(what, Instant::now().into_std());
    drop(log_throttle);
    if let Some(suppressed) = suppressed {
        error!(
            suppressed,
            "an argument of a handler reads `{what}` of a client's request, and its type does not want it: write \
             `FromCall::wants` for that type"
        );
    }
    ServiceError::internal("the service failed; its log says why")
}

/// The error when a handler needs a client's request and has none.
fn not_http() -> ServiceError {
    ServiceError::bad_request("not_http", "this route answers HTTP requests that come through a gateway")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arguments_want_is_registered_once() {
        let check = |names: &[&str], expected: Result<Option<&[&str]>, WrongWants>| {
            let mut wants = Wants::default();
            names.iter().for_each(|name| wants.header(*name));
            let seen = wants.registered();
            let seen = seen.as_ref().map(|wanted| wanted.as_ref().map(|wanted| wanted.iter().collect::<Vec<_>>()));
            assert_eq!(seen, expected.as_ref().map(|names| names.map(<[_]>::to_vec)), "{names:?}");
        };
        check(&[], Ok(None));
        check(&["Cookie", "x-a", "cookie"], Ok(Some(&["cookie", "x-a"])));
        check(&["x a"], Err(WrongWants::Name("x a".to_owned())));
        let many: Vec<String> = (0..=WantedHeaders::MAX_NAMES).map(|n| format!("x-{n}")).collect();
        check(&many.iter().map(String::as_str).collect::<Vec<_>>(), Err(WrongWants::Count(33)));
        let mut wants = Wants::default();
        wants.request();
        assert_eq!(wants.registered(), Ok(Some(WantedHeaders::default())));
    }
}
