//! The body of a request on its way to a server.

use std::future::poll_fn;
use std::sync::Mutex;

use futures::FutureExt;
use tokio::time::Instant;

use super::body::{Http2Body, Http2Sender, lock};
use crate::message::body::Piece;
use crate::proxy::forward::{ClientGone, Source};
use crate::proxy::request_error::{Ended, RequestError};

/// The request's body, on its way to a server.
pub(super) struct Http2Source<'a> {
    pub(super) incoming: &'a mut Http2Body,
    pub(super) outgoing: &'a Mutex<Http2Sender>,
}

impl Source for Http2Source<'_> {
    fn has_more(&mut self) -> bool {
        if self.incoming.read_ahead.is_empty() {
            let read = self.incoming.read().now_or_never().and_then(Result::ok);
            self.incoming.read_ahead.extend(read);
        }
        !self.incoming.read_ahead.is_empty()
    }

    async fn next_piece(&mut self, deadline: Instant) -> Result<Piece, RequestError> {
        self.incoming.next_piece(deadline).await
    }

    async fn client_gone(&mut self) -> ClientGone {
        ClientGone::Surely(poll_fn(|task| lock(self.outgoing).poll_gone(task)).await)
    }

    fn is_client_gone(_ended: Ended) -> bool {
        // A stream whose request has ended in order is not yet over.
        true
    }
}
