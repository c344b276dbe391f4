//! The values that the handlers of a node share.

use std::sync::Arc;

use crate::node::NodeBuilder;

impl NodeBuilder {
    /// A value that handlers can have as [`State<T>`](crate::State). One per type; a second value
    /// of a type replaces the first.
    ///
    /// ```
    /// use std::sync::atomic::{AtomicU64, Ordering};
    ///
    /// use node_sdk::{Node, ServiceError, State};
    ///
    /// async fn count(calls: State<AtomicU64>) -> Result<u64, ServiceError> {
    ///     Ok(calls.fetch_add(1, Ordering::Relaxed))
    /// }
    ///
    /// let node = Node::builder("counter").state(AtomicU64::new(0)).route("POST/count", count);
    /// ```
    pub fn state<T: Send + Sync + 'static>(self, state: T) -> Self {
        self.shared_state(Arc::new(state))
    }

    /// As [`state`](Self::state), for a value that is already shared.
    pub fn shared_state<T: Send + Sync + 'static>(mut self, state: Arc<T>) -> Self {
        self.states.insert(state);
        self
    }
}
