//! A node's stream on its way to the client.

use bytes::{Bytes, BytesMut};
use futures::{FutureExt, Stream, StreamExt};
use tokio::time::Instant;

use super::download::UNPACED_BYTES;
use super::{ClientGone, Sink, Source};
use crate::io::poll_slice::{PollCounter, PollSlice};
use crate::message::head::RequestHead;
use crate::message::response_head::{ResponseEdits, ResponseHead};
use crate::proxy::ended::Ended;
use crate::proxy::exchange::Exchange;

/// Maximum bytes of parts that leave together.
const MAX_BATCH_BYTES: usize = 16 * 1024;

/// Answers with a body in parts, until the last part, or until the client goes. Each part leaves as
/// soon as it is available and the client reads. A part that is an error cuts the response, so that
/// it does not look complete.
pub(crate) async fn respond_with_stream(
    head: &RequestHead,
    response: &ResponseHead,
    parts: impl Stream<Item = Result<Bytes, Ended>> + Send,
    exchange: &mut impl Exchange,
) -> Result<(), Ended> {
    exchange.begin_stream();
    let ended = {
        let (mut source, mut sink, _) = exchange.split(head, false, Instant::now());
        sink.head(response, false, &ResponseEdits::default());
        let polls = PollCounter::default();
        polls.count_polls(relay_parts(parts, &mut source, &mut sink, PollSlice::new(&polls))).await
    };
    exchange.end_stream(ended.is_ok());
    ended
}

async fn relay_parts(
    parts: impl Stream<Item = Result<Bytes, Ended>>,
    source: &mut impl Source,
    sink: &mut impl Sink,
    mut slice: PollSlice<'_>,
) -> Result<(), Ended> {
    let mut parts = std::pin::pin!(parts);
    let (mut batch, mut passed) = (BytesMut::new(), 0);
    loop {
        // Available parts leave together: an HTTP/2 frame for each of many small parts would look
        // like an attack.
        let ready = if batch.len() < MAX_BATCH_BYTES { parts.next().now_or_never() } else { None };
        let part = match ready {
            Some(part) => part,
            None => {
                passed += batch.len() as u64;
                sink.data(batch.split().freeze());
                sink.flush().await?;
                // A client that waits for parts holds no buffer.
                batch = BytesMut::new();
                sink.release_buffers();
                if passed >= UNPACED_BYTES {
                    sink.writable().await?;
                }
                slice.yield_if_over(Instant::now()).await;
                loop {
                    tokio::select! {
                        biased;
                        part = parts.next() => break part,
                        gone = source.client_gone() => match gone {
                            ClientGone::Surely(ended) => return Err(ended),
                            ClientGone::Perhaps => {
                                sink.write_test_byte();
                                sink.flush().await?;
                            }
                        },
                    }
                }
            }
        };
        match part {
            Some(Ok(part)) => batch.extend_from_slice(&part),
            last => {
                sink.data(batch.freeze());
                if last.is_none() {
                    sink.end(b"");
                }
                sink.flush().await?;
                return last.map_or(Ok(()), |broken| broken.map(drop));
            }
        }
    }
}
