//! Calls of a node to itself, which need no connection.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use crate::context::Context;

/// The service of this very node, as calls see it.
pub(crate) trait LocalCall: Send + Sync {
    /// The name of the node.
    fn name(&self) -> &str;

    /// Whether the node offers this itself.
    fn offers(&self, method: &str, path: &str) -> bool;

    /// Calls a route of this node. Gives the response as a frame.
    fn call(
        self: Arc<Self>,
        url: (&str, &str),
        params: &str,
        context: Context,
    ) -> Pin<Box<dyn Future<Output = Bytes> + Send>>;
}
