//! The route of a handler, as its author writes it.

use protocol::{Route, RouteError, Segment};

use crate::error::StartError;

/// The route of a handler. What looks like a pattern of another framework would be taken as it
/// stands, and never match: it is refused.
pub(super) fn own_route(text: &str) -> Result<Route, StartError> {
    let route = Route::parse(text)?;
    let wrong = route.segments().find_map(|segment| match segment {
        Segment::Literal(literal) if literal.contains('*') => {
            Some("there are no wildcards, and a * matches only itself")
        }
        Segment::Literal(literal) if literal.starts_with(':') => Some("a parameter is written {name}, not :name"),
        Segment::Parameter(name) if name.contains(['*', ':']) => {
            Some("a parameter matches any one segment: there are no wildcards, and no expressions")
        }
        Segment::Literal(_) | Segment::Parameter(_) => None,
    });
    match wrong {
        Some(reason) => Err(RouteError { text: text.chars().take(60).collect(), reason }.into()),
        None => Ok(route),
    }
}
