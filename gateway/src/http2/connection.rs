//! One client's connection: streams in, each answered on its own, all in one task.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use h2::Reason;
use h2::server::Builder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Duration, Instant, timeout};

use super::exchange::Stream as Exchange;
use super::meter::Meter;
use crate::config::Config;
use crate::exchange::{Answer, Full};
use crate::seats::Seat;
use crate::stream::Stream;
use crate::timer::Timer;

/// Requests of one client at a time.
const MAX_STREAMS: u32 = 100;
/// Bytes of a request's header fields, counted as they are after decompression.
const MAX_HEADERS_BYTES: u32 = 16 * 1024;
/// Bytes of one response that wait to be written.
const MAX_SEND_BYTES: usize = 32 * 1024;
/// Bytes of a request's body that a client may send ahead, and of all of a connection's.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// Streams that a client has reset and we have not seen yet.
const MAX_RESET: usize = 50;
/// Streams that we have had to reset because of what the client did.
const MAX_LOCAL_RESETS: usize = 100;
/// After the last frame, how long the client may take to read it.
const LINGER: Duration = Duration::from_secs(1);

/// Serves one client until it goes, does nothing for too long, costs too much, or has to leave and its requests are answered.
pub(crate) async fn run(stream: Stream, config: &Config, seat: &Seat, service: &impl Answer) -> &'static str {
    let now = Instant::now();
    let flood = Arc::new(AtomicBool::new(false));
    let metered = Metered { stream, meter: Meter::new(now), flood: Arc::clone(&flood) };
    let handshake = Builder::new()
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADERS_BYTES)
        .max_send_buffer_size(MAX_SEND_BYTES)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_pending_accept_reset_streams(MAX_RESET)
        .max_concurrent_reset_streams(MAX_RESET)
        .max_local_error_reset_streams(Some(MAX_LOCAL_RESETS))
        .handshake::<_, Bytes>(metered);
    let mut connection = match timeout(config.header_timeout, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(_)) => return "no HTTP/2",
        Err(_elapsed) => return "no HTTP/2 in time",
    };
    let mut streams = FuturesUnordered::new();
    let mut timer = Timer::at(now + config.header_timeout);
    let mut stopping = false;
    let (why, reason) = loop {
        tokio::select! {
            biased;
            () = poll_fn(|_| if flood.load(Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending }) => {
                break ("costs too much", Reason::ENHANCE_YOUR_CALM);
            }
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    seat.works();
                    let (mut exchange, head) = Exchange::open(request, respond, config.write_timeout);
                    streams.push(async move {
                        let ended = match head {
                            Ok(head) => service.answer(head, &mut exchange).await,
                            Err(problem) => {
                                service.refused(problem.status);
                                crate::exchange::Exchange::respond(&mut exchange, Full::from(&problem));
                                Ok(())
                            }
                        };
                        exchange.finish(ended).await;
                    });
                }
                Some(Err(_)) => return "broken",
                None => return "closed",
            },
            Some(()) = streams.next() => {
                timer.set(Instant::now() + config.idle_timeout);
                if streams.is_empty() {
                    seat.idles();
                }
            }
            () = timer.expired(), if streams.is_empty() => break ("idle", Reason::NO_ERROR),
            () = seat.leave.cancelled(), if !stopping => {
                stopping = true;
                // Streams that are on their way are taken still; the client is told to ask elsewhere from then on.
                connection.graceful_shutdown();
            }
        }
    };
    drop(streams);
    connection.abrupt_shutdown(reason);
    let closed = async { while let Some(Ok(_)) = connection.accept().await {} };
    let _ = timeout(LINGER, closed).await;
    why
}

/// A client's bytes on their way to `h2`, with an eye on what they cost.
struct Metered {
    stream: Stream,
    meter: Meter,
    /// The client has used up what it may cost: nothing of it is read any more.
    flood: Arc<AtomicBool>,
}

impl AsyncRead for Metered {
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.flood.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let this = &mut *self;
        let read = Pin::new(&mut this.stream).poll_read(task, buffer);
        if !this.meter.take(&buffer.filled()[before..], Instant::now()) {
            this.flood.store(true, Ordering::Relaxed);
            task.waker().wake_by_ref();
        }
        read
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, task: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(task, bytes);
        if let Poll::Ready(Ok(bytes)) = written {
            self.meter.sent(bytes);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(task)
    }
}
