//! The route of a handler, as its author writes it.

use protocol::{Route, RouteError};

use crate::error::StartError;

/// The route of a handler. A pattern of another framework is refused. Otherwise it would be
/// registered as a literal path, which no call matches.
pub(super) fn own_route(text: &str) -> Result<Route, StartError> {
    let route = Route::parse(text)?;
    match route.foreign_pattern() {
        Some(reason) => Err(RouteError { text: text.chars().take(60).collect(), reason }.into()),
        None => Ok(route),
    }
}
