//! The error of a call whose url no known node offers: the url may be malformed, the list may not
//! have arrived yet, or this node may not be told of the nodes that offer it.

use std::future::Future;
use std::time::Duration;

use net::warn;
use protocol::{Route, Segment};
use tokio::time::sleep;

use crate::client::mesh::Mesh;
use crate::client::split_url;
use crate::error::CallError;

/// The time without a provider after which the log says what is waited for: a url may have a
/// mistake.
const NOTICE_AFTER: Duration = Duration::from_secs(5);

/// Which providers of a url a node is told of, by its interests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coverage {
    /// This node is told of all nodes that offer the route.
    All,
    /// This node is told of some nodes by their names, and they may offer the route.
    Some,
    /// This node is not told of any node that offers the route.
    None,
}

/// Why calls of `url` fail although it is offered nowhere: `None` if it has the form of a url.
pub(super) fn url_form_error(url: &str) -> Option<&'static str> {
    if url.contains('?') {
        return Some("arguments are the parameters of the call, and do not stand behind a ?");
    }
    if url.starts_with('/') {
        return Some("the method stands before the path, as in GET/hello");
    }
    // A path may have more characters than a route.
    let (method, path) = split_url(url);
    let is_method = !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_uppercase());
    let is_url = is_method && !path.is_empty();
    (!is_url).then_some("it is a method in capital letters and a path, as in GET/hello")
}

/// Which providers of this url a node with these interests is told of.
pub(super) fn coverage(interests: Option<&[String]>, method: &str, path: &str) -> Coverage {
    let Some(interests) = interests else { return Coverage::All };
    let is_url = |interest: &String| Route::parse(interest).is_ok_and(|route| matches(&route, method, path));
    if interests.iter().any(is_url) {
        return Coverage::All;
    }
    if interests.iter().any(|interest| !interest.contains('/')) { Coverage::Some } else { Coverage::None }
}

fn matches(route: &Route, method: &str, path: &str) -> bool {
    let mut segments = path.split('/').skip(1);
    let fits = |segment| match (segment, segments.next()) {
        (_, None) => false,
        (Segment::Literal(literal), Some(there)) => literal == there,
        (Segment::Parameter(_), Some(_)) => true,
    };
    route.method() == method && route.segments().all(fits) && segments.next().is_none()
}

/// Why a call of this url fails that no known node offers.
pub(super) fn error(mesh: &Mesh, method: &str, path: &str) -> CallError {
    let url = format!("{method}{path}");
    if let Some(reason) = url_form_error(&url) {
        return CallError::BadUrl { url, reason };
    }
    if !mesh.view().has_list() {
        return CallError::NoList { url };
    }
    match coverage(mesh.interests(), method, path) {
        Coverage::All => CallError::NoRoute { url },
        Coverage::Some | Coverage::None => CallError::OutsideInterests { url },
    }
}

/// Runs `wait`, which waits for nodes, and logs once what is missing if that takes long: the urls
/// that `missing` names, or services by their names.
pub(crate) async fn wait_with_notice(mesh: &Mesh, wait: impl Future<Output = ()>, missing: impl Fn() -> Vec<String>) {
    let mut wait = std::pin::pin!(wait);
    tokio::select! {
        () = &mut wait => return,
        () = sleep(NOTICE_AFTER) => {}
    }
    for what in missing() {
        warn!("{}", missing_provider_notice(mesh, &what));
    }
    wait.await;
}

fn missing_provider_notice(mesh: &Mesh, what: &str) -> String {
    let why = if what.contains('/') {
        let (method, path) = split_url(what);
        error(mesh, method, path).to_string()
    } else {
        format!("no known node has the name {what}")
    };
    format!("still waiting for {what}: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c8_a_url_in_a_wrong_form_is_told_from_one_that_is_not_offered() {
        #[track_caller]
        fn check(url: &str, expected: Option<&str>) {
            let reason = url_form_error(url);
            let fits = match (reason, expected) {
                (Some(reason), Some(part)) => reason.contains(part),
                (reason, expected) => reason == expected,
            };
            assert!(fits, "{url}: {reason:?}");
        }
        check("GET/hello", None);
        check("GET/", None);
        check("GET/a b/{c}/*", None);
        check("GET/hello?name=x", Some("behind a ?"));
        check("/hello", Some("the method stands before"));
        for url in ["hello", "get/hello", "Get/hello", "GET", "", "GET hello"] {
            check(url, Some("as in GET/hello"));
        }
    }

    #[test]
    fn m11_interests_say_what_a_node_is_told_of() {
        #[track_caller]
        fn check(interests: Option<&[&str]>, url: &str, expected: Coverage) {
            let interests: Option<Vec<String>> =
                interests.map(|texts| texts.iter().map(|text| (*text).to_owned()).collect());
            let (method, path) = split_url(url);
            assert_eq!(coverage(interests.as_deref(), method, path), expected, "{interests:?} {url}");
        }
        check(None, "GET/a", Coverage::All);
        check(Some(&[]), "GET/a", Coverage::None);
        check(Some(&["GET/b"]), "GET/a", Coverage::None);
        check(Some(&["GET/b", "GET/a"]), "GET/a", Coverage::All);
        check(Some(&["GET/a/{id}"]), "GET/a/7", Coverage::All);
        for url in ["POST/a/7", "GET/a", "GET/a/7/8", "GET/b/7"] {
            check(Some(&["GET/a/{id}"]), url, Coverage::None);
        }
        check(Some(&["goods", "GET/b"]), "GET/a", Coverage::Some);
        check(Some(&["EVENT/a"]), "EVENT/a", Coverage::All);
    }
}
