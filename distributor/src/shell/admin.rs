//! The pages of the Distributor for operators, on an address of its own.

use std::sync::Arc;

use net::{AdminPage, serve_admin};
use tokio::net::TcpListener;

use crate::shell::metrics;
use crate::shell::shared::Shared;

/// Answers `/health` and `/metrics` until it is dropped, also while the Distributor stops.
pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let page = move |path: &str| match path {
        "/health" => Some(AdminPage::ok("alive\n")),
        "/metrics" => Some(AdminPage::ok(metrics::text(&shared.figures()))),
        _ => None,
    };
    serve_admin(listener, "/health or /metrics", page).await;
}
