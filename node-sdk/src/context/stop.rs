//! The stop of a node, as its handlers and background tasks see it.

use std::future::Future;

use tokio_util::sync::CancellationToken;

/// Says that the node stops, to work that does not end by itself. Clones are cheap and stand for
/// the same node. A handler and a hook take it as an argument; elsewhere it comes from
/// [`Node::stopping`](crate::Node::stopping).
///
/// It is requested as soon as the node begins to stop: after a signal, by
/// [`Node::stop`](crate::Node::stop), or when the node is dropped. From then on the node takes some
/// time to stop, in which it waits for tasks of [`detach`](crate::detach).
///
/// ```no_run
/// # fn sweep() {}
/// use std::time::Duration;
///
/// use node_sdk::{Node, ServiceError, Stop, detach};
/// use tokio::time::sleep;
///
/// async fn sweep_each_minute(stop: Stop) {
///     while stop.interrupt(sleep(Duration::from_secs(60))).await.is_some() {
///         sweep();
///     }
/// }
///
/// async fn begin(stop: Stop) -> Result<(), ServiceError> {
///     detach(sweep_each_minute(stop));
///     Ok(())
/// }
///
/// let node = Node::builder("sweeper").route("POST/sweeps", begin);
/// ```
#[derive(Clone, Debug)]
pub struct Stop(CancellationToken);

impl Stop {
    /// Is requested when `token` is cancelled.
    pub(crate) fn new(token: CancellationToken) -> Self {
        Self(token)
    }

    /// Completes when the node begins to stop; at once if it has begun. Cancel safe.
    pub async fn requested(&self) {
        self.0.cancelled().await;
    }

    /// Whether the node has begun to stop.
    pub fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Runs `work` until it is done, and returns its result. Returns `None` when the node begins to
    /// stop before: `work` is dropped then. As cancel safe as `work`.
    pub async fn interrupt<F: Future>(&self, work: F) -> Option<F::Output> {
        self.0.run_until_cancelled(work).await
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn work_ends_when_a_stop_is_requested() {
        let token = CancellationToken::new();
        let stop = Stop::new(token.clone());
        assert_eq!((stop.interrupt(ready(7)).await, stop.is_requested()), (Some(7), false));
        let waiting = tokio::spawn({
            let stop = stop.clone();
            async move { stop.interrupt(pending::<()>()).await }
        });
        token.cancel();
        assert_eq!(waiting.await.unwrap(), None);
        stop.requested().await;
        assert!(stop.is_requested());
    }
}
