//! Calls of a node to itself, which need no connection.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use protocol::CallUrl;

use crate::context::Context;

/// The service of this node itself, as calls see it.
pub(crate) trait LocalCall: Send + Sync {
    /// The name of the node.
    fn name(&self) -> &str;

    /// Whether the node itself offers this.
    fn offers(&self, method: &str, path: &str) -> bool;

    /// Calls a route of this node. Dropping the result cancels the call, unless it has to be
    /// finished: see `server/released`.
    fn call(self: Arc<Self>, url: CallUrl<'_>, params: &str, context: Context, idempotent: bool) -> LocalResponse;

    /// Has this node handle an event that is acknowledged. Dropping the result cancels nothing.
    fn deliver(
        self: Arc<Self>,
        url: CallUrl<'_>,
        params: &str,
        context: Context,
        event: LocalEvent<'_>,
    ) -> LocalResponse;

    /// Makes a call without a response: the caller does not wait for the handler. Returns whether
    /// it has room for it.
    fn notify(&self, url: CallUrl<'_>, params: &str, context: Context) -> bool;
}

/// What an event that is acknowledged says of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalEvent<'a> {
    pub(crate) id: &'a str,
    pub(crate) key: Option<&'a str>,
    pub(crate) attempt: u8,
}

/// The response of this node as a frame; `None` when the deadline is over.
pub(crate) type LocalResponse = Pin<Box<dyn Future<Output = Option<Bytes>> + Send>>;

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, Weak};
    use std::time::Duration;

    use net::Network;

    use super::*;
    use crate::balance::Balance;
    use crate::client::CallArguments;
    use crate::client::call::raw_call::RawCall;
    use crate::client::mesh::Mesh;
    use crate::error::CallError;
    use crate::routing::local_node::LocalNode;
    use crate::routing::registry_view::RegistryView;
    use crate::transport::blocked::BlockedAddresses;

    /// A node that offers `GET/a`, and answers after some time.
    struct Stub {
        takes: Duration,
        calls: Mutex<Vec<String>>,
    }

    impl LocalCall for Stub {
        fn name(&self) -> &str {
            "stub"
        }

        fn offers(&self, method: &str, path: &str) -> bool {
            (method, path) == ("GET", "/a")
        }

        fn call(
            self: Arc<Self>,
            _url: CallUrl<'_>,
            params: &str,
            context: Context,
            _idempotent: bool,
        ) -> LocalResponse {
            self.calls.lock().unwrap().push(params.to_owned());
            let done = async move {
                tokio::time::sleep(self.takes).await;
                Bytes::from_static(b"done")
            };
            Box::pin(async move { tokio::time::timeout_at(context.deadline.unwrap(), done).await.ok() })
        }

        fn deliver(
            self: Arc<Self>,
            _url: CallUrl<'_>,
            params: &str,
            context: Context,
            _event: LocalEvent<'_>,
        ) -> LocalResponse {
            self.call(CallUrl::new("EVENT", "/a"), params, context, false)
        }

        fn notify(&self, _url: CallUrl<'_>, _params: &str, _context: Context) -> bool {
            true
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_calls_itself_without_a_connection() {
        let local_node =
            LocalNode::new("i".to_owned(), "n", None, Network::default(), BlockedAddresses::default(), None);
        let mesh = Mesh::new(RegistryView::new(Arc::clone(&local_node), false), local_node, Balance::default(), None);
        let call = async |path| RawCall::new(&mesh, "GET", path, CallArguments::Text("[1]")).await;
        assert!(matches!(call("/a").await, Err(CallError::NoRoute { .. })), "nothing is offered yet");
        let stub = Arc::new(Stub { takes: Duration::from_secs(4), calls: Mutex::default() });
        let weak: Weak<Stub> = Arc::downgrade(&stub);
        mesh.set_local(weak);
        assert_eq!(&call("/a").await.unwrap().packet()[..], b"done");
        assert!(matches!(call("/b").await, Err(CallError::NoRoute { .. })));
        let short = RawCall::new(&mesh, "GET", "/a", CallArguments::Text("[2]")).timeout(Duration::from_secs(1));
        assert!(matches!(short.await, Err(CallError::Deadline { .. })));
        assert_eq!(*stub.calls.lock().unwrap(), ["[1]", "[2]"]);
        drop(stub);
        assert!(matches!(call("/a").await, Err(CallError::NoRoute { .. })), "the service is gone");
    }
}
