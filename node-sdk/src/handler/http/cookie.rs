//! A cookie that a client is given.

use std::fmt::Write;
use std::time::Duration;

use protocol::ResponseHeaders;

use crate::error::ServiceError;

/// Stands in place of `set-cookie` until it is known whether the client speaks TLS. No field can
/// have this name.
const SECURE_IF_HTTPS: &str = "set-cookie, secure if https";

/// A cookie for a client, of a [`HttpResponse`](crate::HttpResponse) or a [`ServiceError`]. Unless
/// told otherwise, scripts cannot read it (`HttpOnly`), other sites cannot send it along
/// (`SameSite=Lax`), it is sent with every path of the host (`Path=/`) and until the browser
/// closes, and only over TLS (`Secure`) if the client speaks TLS now.
///
/// ```
/// use std::time::Duration;
///
/// use node_sdk::{Cookie, HttpResponse, ServiceError};
///
/// async fn sign_in() -> Result<HttpResponse<&'static str>, ServiceError> {
///     let cookie = Cookie::new("session", "a token").max_age(Duration::from_secs(3600));
///     Ok(HttpResponse::new("welcome").cookie(cookie))
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cookie {
    name: String,
    value: String,
    path: String,
    domain: Option<String>,
    max_age: Option<Duration>,
    same_site: SameSite,
    is_http_only: bool,
    is_secure: Option<bool>,
}

/// Which requests that other sites cause a cookie is sent with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SameSite {
    /// None, not even when a person follows a link.
    Strict,
    /// Those of a person who follows a link.
    #[default]
    Lax,
    /// All. Browsers require `Secure` then, so it is set.
    None,
}

impl Cookie {
    /// A cookie with the defaults. Characters that a cookie cannot have, such as `;`, quotes, white
    /// space and what is not ASCII, are left out of both name and value: encode such a value.
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        let (mut name, mut value): (String, String) = (name.into(), value.into());
        name.retain(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c));
        value.retain(|c| c.is_ascii_graphic() && !"\",;\\".contains(c));
        Self {
            name,
            value,
            path: "/".to_owned(),
            domain: None,
            max_age: None,
            same_site: SameSite::Lax,
            is_http_only: true,
            is_secure: None,
        }
    }

    /// Has the client forget the cookie of this name. Path and domain must be those that it was set
    /// with.
    pub fn removed(name: impl Into<String>) -> Self {
        Self::new(name, "").max_age(Duration::ZERO)
    }

    /// How long the client keeps the cookie, in whole seconds.
    pub fn max_age(mut self, max_age: Duration) -> Self {
        self.max_age = Some(max_age);
        self
    }

    /// Has the cookie sent with this path and those below it only.
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.path = attribute(path.into());
        self
    }

    /// Has the cookie sent to this domain and those below it, and not to its host alone.
    pub fn domain(mut self, domain: impl Into<String>) -> Self {
        self.domain = Some(attribute(domain.into()));
        self
    }

    /// The requests of other sites with which the cookie is sent; [`SameSite::Lax`] unless set.
    pub fn same_site(mut self, same_site: SameSite) -> Self {
        self.same_site = same_site;
        self
    }

    /// Whether scripts of the page cannot read it; true unless set.
    pub fn http_only(mut self, is_http_only: bool) -> Self {
        self.is_http_only = is_http_only;
        self
    }

    /// Whether the cookie is sent over TLS only. Unless set, that is so if the client speaks TLS
    /// now.
    pub fn secure(mut self, is_secure: bool) -> Self {
        self.is_secure = Some(is_secure);
        self
    }

    /// Appends it to the fields of a response.
    pub(crate) fn append_to(self, headers: &mut ResponseHeaders) {
        let Self { name, value, path, domain, max_age, same_site, is_http_only, is_secure } = self;
        let mut text = format!("{name}={value}; Path={path}");
        if let Some(domain) = domain {
            let _ = write!(text, "; Domain={domain}");
        }
        if let Some(max_age) = max_age {
            let _ = write!(text, "; Max-Age={}", max_age.as_secs());
        }
        text.push_str(match same_site {
            SameSite::Strict => "; SameSite=Strict",
            SameSite::Lax => "; SameSite=Lax",
            SameSite::None => "; SameSite=None",
        });
        if is_http_only {
            text.push_str("; HttpOnly");
        }
        let is_secure = if same_site == SameSite::None { Some(true) } else { is_secure };
        if is_secure == Some(true) {
            text.push_str("; Secure");
        }
        headers.append(if is_secure.is_none() { SECURE_IF_HTTPS } else { "set-cookie" }, text);
    }
}

impl ServiceError {
    /// Gives the client of a gateway a cookie with the error.
    pub fn cookie(mut self, cookie: Cookie) -> Self {
        cookie.append_to(&mut self.headers);
        self
    }
}

/// The value of an attribute, which ends at `;`.
fn attribute(mut text: String) -> String {
    text.retain(|c| c.is_ascii_graphic() && c != ';');
    text
}

/// Whether a field of this name is a cookie, of which a response may have several.
pub(super) fn is_one(name: &str) -> bool {
    name == SECURE_IF_HTTPS || name.eq_ignore_ascii_case("set-cookie")
}

/// The fields as they are sent to a client that speaks TLS, or does not.
pub(crate) fn finish(headers: ResponseHeaders, is_https: bool) -> ResponseHeaders {
    if !headers.contains(SECURE_IF_HTTPS) {
        return headers;
    }
    let mut finished = ResponseHeaders::NONE;
    for (name, value) in headers {
        match &*name {
            SECURE_IF_HTTPS if is_https => finished.append("set-cookie", format!("{value}; Secure")),
            SECURE_IF_HTTPS => finished.append("set-cookie", value),
            _ => finished.append(name, value),
        }
    }
    finished
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(cookie: Cookie, is_https: bool, expected: &str) {
        let mut headers = ResponseHeaders::NONE;
        headers.append("x", "1");
        cookie.append_to(&mut headers);
        let headers = finish(headers, is_https);
        assert_eq!(headers.iter().collect::<Vec<_>>(), [("x", "1"), ("set-cookie", expected)]);
    }

    #[test]
    fn a_cookie_is_safe_unless_told_otherwise() {
        let new = || Cookie::new("a", "1");
        check(new(), false, "a=1; Path=/; SameSite=Lax; HttpOnly");
        check(new(), true, "a=1; Path=/; SameSite=Lax; HttpOnly; Secure");
        check(new().secure(false).http_only(false), true, "a=1; Path=/; SameSite=Lax");
        check(new().same_site(SameSite::None), false, "a=1; Path=/; SameSite=None; HttpOnly; Secure");
        check(
            new().path("/x").domain("a.test").max_age(Duration::from_millis(61_900)).same_site(SameSite::Strict),
            false,
            "a=1; Path=/x; Domain=a.test; Max-Age=61; SameSite=Strict; HttpOnly",
        );
        check(Cookie::removed("a"), false, "a=; Path=/; Max-Age=0; SameSite=Lax; HttpOnly");
        let hostile = Cookie::new("a=b;", "1\r\nSet-Cookie: x=1; \"é¶").path("/;\r\n HttpOnly");
        check(hostile, false, "ab=1Set-Cookie:x=1; Path=/HttpOnly; SameSite=Lax; HttpOnly");
    }
}
