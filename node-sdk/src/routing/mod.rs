//! Which nodes offer which routes, as the registry says. Nothing here calls a node.

pub(crate) mod blocked;
pub(crate) mod known_routes;
pub(crate) mod router;
pub(crate) mod table;
