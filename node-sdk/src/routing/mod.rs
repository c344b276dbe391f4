//! Which nodes offer which routes, as the registry says. Nothing here makes calls or talks to the
//! Distributor.

pub(crate) mod crashing_routes;
pub(crate) mod known_routes;
pub(crate) mod local_node;
pub(crate) mod path_params;
pub(crate) mod provider;
mod reachability;
pub(crate) mod registry_view;
pub(crate) mod router;
pub(crate) mod subscriptions;
pub(crate) mod table;
