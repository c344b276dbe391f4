//! Which nodes offer which routes, as the registry says.
//!
//! It must not make calls or talk to the Distributor. It must not import `client` or `discovery`.

pub(crate) mod crashing_routes;
pub(crate) mod known_routes;
pub(crate) mod local_node;
pub(crate) mod needs;
pub(crate) mod path_params;
pub(crate) mod provider;
mod reachability;
pub(crate) mod registry_view;
pub(crate) mod subscriptions;
pub(crate) mod table;
