//! The gateway in front of HTTP servers, of the file or of nodes, and the settings of routes.

mod failures;
mod offers;
mod requests;
mod routes;
