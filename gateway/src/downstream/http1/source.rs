//! The body of a request on its way to a server.

use tokio::time::Instant;

use super::input::Http1Input;
use crate::io::stream::ReadHalf;
use crate::message::body::Piece;
use crate::proxy::forward::{ClientGone, Source};
use crate::proxy::request_error::{Ended, RequestError};

/// The body of the request, and the bytes that follow it.
pub(super) struct Http1Source<'a> {
    pub(super) input: &'a mut Http1Input,
    pub(super) from_client: ReadHalf<'a>,
    /// Whether the response ends at some time, even if a close by the client is not noticed.
    pub(super) has_deadline: bool,
}

impl Source for Http1Source<'_> {
    fn has_more(&mut self) -> bool {
        !self.input.buffer.is_empty() || !self.input.read_ahead.is_empty()
    }

    async fn next_piece(&mut self, deadline: Instant) -> Result<Piece, RequestError> {
        self.input.next_piece(&mut self.from_client, deadline).await
    }

    async fn client_gone(&mut self) -> ClientGone {
        match self.input.client_gone(&mut self.from_client).await {
            Some(gone) => gone,
            None if self.has_deadline => std::future::pending().await,
            None => ClientGone::Surely(Ended("sends more requests during a stream than are read ahead")),
        }
    }

    fn is_client_gone(ended: Ended) -> bool {
        ended == Ended::BROKEN
    }
}
