//! One client's connection: streams in, each answered independently, all in one task.
//!
//! It must not decide what answers a request. Of HTTP/1 it must import nothing: `message` has what
//! both versions share.

mod body;
mod exchange;
mod field_table;
mod frames;
mod head;
mod held_bytes;
mod meter;
mod metered_stream;
mod sink;
mod source;

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use h2::Reason;
use h2::server::Builder;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};

use self::exchange::Http2Exchange;
use self::held_bytes::{HeldBytes, cost_of};
use self::metered_stream::{ConnectionActivity, MeteredStream};
use crate::config::Config;
use crate::downstream::tracked_client::TrackedClient;
use crate::io::budget::OWN_BYTES;
use crate::io::poll_slice::{PollCounter, PollSlice};
use crate::io::stream::MaybeTlsStream;
use crate::io::timer::Timer;
use crate::message::head::RequestHead;
use crate::message::problem::Problem;
use crate::proxy::exchange::{Exchange, FullResponse, RequestHandler};
use crate::proxy::request_error::{Ended, RequestError};

/// Requests of one client at a time: the least that RFC 9113 (6.5.2) recommends.
const MAX_STREAMS: u32 = 100;
/// Requests at a time of a client that connects while many are connected: the crate's table of
/// streams takes 0.6 kB for each stream, up to the most that were ever open.
const MAX_STREAMS_IN_A_CROWD: u32 = 8;
/// Bytes of a request's header fields after decompression.
const MAX_HEADERS_BYTES: u32 = 16 * 1024;
/// Bytes of one response that wait to be written.
const MAX_SEND_BYTES: usize = 32 * 1024;
/// Bytes that a client may send ahead of a request's body, and of all bodies of a connection: ten
/// thousand clients may do that.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 64 * 1024;
/// Streams that a client has reset and that we have not handled yet.
const MAX_RESET: usize = 50;
/// Streams of a client that are not charged: those of ten thousand clients take 100 MB.
const FREE_STREAMS: usize = 2;
/// The memory of such a stream's fields that is not counted either: 2 KiB of fields.
const FREE_FIELD_BYTES: usize = FIELD_COPIES * 2 * 1024;
/// The memory of a client's table of header fields that is not counted. Without room for as much
/// again, the client's requests are refused; beyond that its connection ends.
const FREE_TABLE_BYTES: usize = 32 * 1024;
/// How often a byte of a field is in memory: in the block that the h2 crate has read, in its table
/// of fields, in the head that is made of these, and in the spare room of each.
const FIELD_COPIES: usize = 4;
/// The most that the h2 crate holds of an incomplete frame, and of fields whose end has not
/// arrived.
const FRAME_BYTES: usize = 16 * 1024 + MAX_HEADERS_BYTES as usize;
/// The most uncounted memory of a connection: the bytes that it may hold without a reservation, a
/// body that waits to be read, half a frame, a response that waits to be written, and its free
/// streams.
pub(crate) const UNCOUNTED_BYTES: usize = OWN_BYTES
    + CONNECTION_WINDOW as usize
    + FRAME_BYTES
    + MAX_SEND_BYTES
    + 2 * FREE_TABLE_BYTES
    + FREE_STREAMS * (STREAM_BYTES + FREE_FIELD_BYTES);
/// The bytes charged to the budget of all clients for a further stream, beside its fields, until it
/// is answered. 4.7 kB were measured.
const STREAM_BYTES: usize = 5 * 1024;
/// Streams that we may have to reset because of the client's errors.
const MAX_LOCAL_RESETS: usize = 100;
/// How long a client may take to acknowledge that the connection will be closed.
const LAST_REQUEST_WAIT: Duration = Duration::from_secs(1);
/// How long the client may take to read the last frame.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves one client until it closes, is idle for too long, costs too much, or has to be closed and
/// its requests are answered.
pub(crate) async fn run(
    stream: MaybeTlsStream,
    config: &Config,
    client: &TrackedClient,
    handler: &impl RequestHandler,
) -> &'static str {
    let polls = PollCounter::default();
    polls.count_polls(serve(stream, config, client, handler, &polls)).await
}

async fn serve(
    stream: MaybeTlsStream,
    config: &Config,
    client: &TrackedClient,
    handler: &impl RequestHandler,
    polls: &PollCounter,
) -> &'static str {
    let now = Instant::now();
    let activity = Arc::new(ConnectionActivity::new(now));
    let mut slice = PollSlice::new(polls);
    let mut metered = MeteredStream::new(stream, &activity, PollSlice::new(polls), now);
    let handshake = settings(client.is_crowded()).handshake::<_, Bytes>(&mut metered);
    let Some(mut connection) = timeout(config.header_timeout, handshake).await.ok().and_then(Result::ok) else {
        // An orderly end: bytes that the client has sent beyond that are read.
        let _ = timeout(LINGER_TIMEOUT, metered.shutdown()).await;
        return "no HTTP/2";
    };
    let mut streams = FuturesUnordered::new();
    let mut timer = Timer::at(now + config.header_timeout);
    let mut stopping = false;
    let mut held = HeldBytes::new(handler, &activity);
    let (why, reason) = loop {
        tokio::select! {
            biased;
            () = poll_fn(|_| {
                let costs_too_much = held.is_table_too_large() || activity.is_flooding.load(Ordering::Relaxed);
                if costs_too_much { Poll::Ready(()) } else { Poll::Pending }
            }) => {
                break ("costs too much", Reason::ENHANCE_YOUR_CALM);
            }
            accepted = activity.accept(&mut connection) => match accepted {
                Some(Ok((request, mut respond))) => {
                    let cost = cost_of(&request, streams.len());
                    if !held.try_charge(cost) {
                        // The request has not been handled, so the client may send it again.
                        respond.send_reset(Reason::REFUSED_STREAM);
                        continue;
                    }
                    client.mark_busy();
                    let (exchange, head) = Http2Exchange::open(request, respond, config.write_timeout, Arc::clone(&client.pace));
                    streams.push(answer_and_finish(head, exchange, handler, cost));
                }
                Some(Err(_)) => return "broken",
                None => return "closed",
            },
            Some(cost) = streams.next() => {
                let now = Instant::now();
                held.release(cost);
                timer.set(now + if stopping { LAST_REQUEST_WAIT } else { config.idle_timeout });
                if streams.is_empty() {
                    client.mark_idle(now);
                    held.clear();
                }
                // A client that sends requests without a pause must leave time for others.
                slice.yield_if_over(now).await;
            }
            () = timer.expired(), if streams.is_empty() => {
                // Responses that were handed to the h2 crate may still be on their way.
                let busy_until = activity.last_write() + config.idle_timeout;
                if stopping || busy_until <= Instant::now() {
                    break ("idle", Reason::NO_ERROR);
                }
                timer.set(busy_until);
            }
            () = client.stop.cancelled(), if !stopping => {
                stopping = true;
                // Streams that are already on their way are still accepted. The client is told to
                // open new ones elsewhere.
                connection.graceful_shutdown();
                timer.set(Instant::now() + LAST_REQUEST_WAIT);
            }
        }
    };
    drop(streams);
    connection.abrupt_shutdown(reason);
    let closed = async { while let Some(Ok(_)) = activity.accept(&mut connection).await {} };
    let _ = timeout(LINGER_TIMEOUT, closed).await;
    why
}

/// Answers one request, and ends its stream. Returns `cost`, which is then released.
async fn answer_and_finish(
    head: Result<RequestHead, Problem>,
    mut exchange: Http2Exchange,
    handler: &impl RequestHandler,
    cost: usize,
) -> usize {
    let ended = answer(head, &mut exchange, handler).await;
    exchange.finish(ended).await;
    cost
}

/// The limits of a connection, as far as the h2 crate keeps them.
fn settings(is_crowded: bool) -> Builder {
    let mut settings = Builder::new();
    settings
        .max_concurrent_streams(if is_crowded { MAX_STREAMS_IN_A_CROWD } else { MAX_STREAMS })
        .max_header_list_size(MAX_HEADERS_BYTES)
        .max_send_buffer_size(MAX_SEND_BYTES)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_pending_accept_reset_streams(MAX_RESET)
        .max_concurrent_reset_streams(MAX_RESET)
        .max_local_error_reset_streams(Some(MAX_LOCAL_RESETS));
    settings
}

/// Answers one request.
async fn answer(
    head: Result<RequestHead, Problem>,
    exchange: &mut Http2Exchange,
    handler: &impl RequestHandler,
) -> Result<(), Ended> {
    let head = match head {
        Ok(mut head) => exchange.settle_framing(&mut head).await.map(|()| head),
        Err(problem) => Err(RequestError::Problem(problem)),
    };
    match head {
        Ok(head) => handler.handle(head, exchange).await.map(drop),
        Err(RequestError::Problem(problem)) => {
            handler.record_rejection(problem.status);
            exchange.respond(FullResponse::from(&problem));
            Ok(())
        }
        Err(RequestError::Ended(ended)) => Err(ended),
    }
}
