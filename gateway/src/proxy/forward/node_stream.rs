//! A node's stream on its way to the client.

use std::future::Future;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{FutureExt, Stream, StreamExt};
use tokio::time::Instant;

use super::download::UNPACED_BYTES;
use super::state::ForwardState;
use super::{ClientGone, Sink, Source};
use crate::io::poll_slice::{PollCounter, PollSlice};
use crate::io::timer::Timer;
use crate::message::head::RequestHead;
use crate::message::response_head::{ResponseEdits, ResponseHead};
use crate::proxy::exchange::Exchange;
use crate::proxy::request_error::Ended;

/// Maximum bytes of parts that leave together.
const MAX_BATCH_BYTES: usize = 16 * 1024;
/// A part of this size is not copied to others.
const LARGE_PART_BYTES: usize = 8 * 1024;

/// What follows when a node sends nothing for a while.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Silence {
    /// Nothing.
    Allowed,
    /// The response is cut after this time.
    Cut(Duration),
    /// The client is sent these bytes each time.
    Heartbeat(Duration, &'static [u8]),
}

/// Finds out whether the client of a stream has gone.
pub(super) trait ClientWatch: Send {
    /// Completes when the client goes, or may have gone. Cancel safe; to be called again.
    fn client_gone(&mut self) -> impl Future<Output = ClientGone> + Send;
}

/// Watches the connection of the client.
pub(super) struct WatchSource<'a, S>(pub(super) &'a mut S);

impl<S: Source> ClientWatch for WatchSource<'_, S> {
    async fn client_gone(&mut self) -> ClientGone {
        self.0.client_gone().await
    }
}

/// The direction of the request watches the client.
impl ClientWatch for &ForwardState {
    async fn client_gone(&mut self) -> ClientGone {
        self.test_byte_requested().await;
        ClientGone::Perhaps
    }
}

/// Answers with a body in parts, until the last part, or until the client goes. Each part leaves as
/// soon as it is available and the client reads. A part that is an error cuts the response, so that
/// it does not look complete.
pub(crate) async fn respond_with_stream(
    head: &RequestHead,
    response: &ResponseHead,
    parts: impl Stream<Item = Result<Bytes, Ended>> + Send,
    silence: Silence,
    exchange: &mut impl Exchange,
) -> Result<(), Ended> {
    exchange.begin_stream();
    let ended = {
        let (mut source, mut sink, timer) = exchange.split(head, false, Instant::now());
        sink.head(response, false, &ResponseEdits::default());
        let polls = PollCounter::default();
        let relay = Relay { silence, timer, slice: PollSlice::new(&polls) };
        polls.count_polls(relay.run(parts, WatchSource(&mut source), &mut sink)).await
    };
    exchange.end_stream(ended.is_ok());
    ended
}

/// How the parts of a stream are passed on.
pub(super) struct Relay<'a> {
    pub(super) silence: Silence,
    pub(super) timer: &'a mut Timer,
    pub(super) slice: PollSlice<'a>,
}

impl Relay<'_> {
    /// Passes on all parts, behind a head that was given to `sink`.
    pub(super) async fn run(
        mut self,
        parts: impl Stream<Item = Result<Bytes, Ended>> + Send,
        mut client: impl ClientWatch,
        sink: &mut impl Sink,
    ) -> Result<(), Ended> {
        let mut parts = std::pin::pin!(parts);
        let (mut batch, mut passed, mut waiting) = (BytesMut::new(), 0, 0);
        loop {
            // Available parts leave together: an HTTP/2 frame for each of many small parts would
            // look like an attack.
            let ready = if waiting < MAX_BATCH_BYTES { parts.next().now_or_never() } else { None };
            let part = match ready {
                Some(part) => part,
                None => {
                    passed += std::mem::take(&mut waiting) as u64;
                    sink.data(batch.split().freeze());
                    sink.flush().await?;
                    // A client that waits for parts holds no buffer.
                    batch = BytesMut::new();
                    sink.release_buffers();
                    if passed >= UNPACED_BYTES {
                        sink.writable().await?;
                    }
                    let now = Instant::now();
                    let now = if self.slice.yield_if_over(now).await { Instant::now() } else { now };
                    self.next_part(parts.as_mut(), &mut client, sink, now).await?
                }
            };
            match part {
                Some(Ok(part)) if part.len() >= LARGE_PART_BYTES => {
                    waiting += part.len();
                    sink.data(batch.split().freeze());
                    sink.data(part);
                }
                Some(Ok(part)) => {
                    waiting += part.len();
                    batch.extend_from_slice(&part);
                }
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

    /// Waits for the next part, from `now` on.
    async fn next_part(
        &mut self,
        mut parts: std::pin::Pin<&mut (impl Stream<Item = Result<Bytes, Ended>> + Send)>,
        client: &mut impl ClientWatch,
        sink: &mut impl Sink,
        mut now: Instant,
    ) -> Result<Option<Result<Bytes, Ended>>, Ended> {
        loop {
            let limit = match self.silence {
                Silence::Allowed => None,
                Silence::Cut(time) | Silence::Heartbeat(time, _) => Some(time),
            };
            limit.into_iter().for_each(|time| self.timer.set(now + time));
            tokio::select! {
                biased;
                part = parts.next() => return Ok(part),
                gone = client.client_gone() => match gone {
                    ClientGone::Surely(ended) => return Err(ended),
                    ClientGone::Perhaps => sink.write_test_byte(),
                },
                () = self.timer.expired(), if limit.is_some() => {
                    let Silence::Heartbeat(_, bytes) = self.silence else {
                        return Err(Ended("a node sent nothing for too long in mid response"));
                    };
                    sink.data(Bytes::from_static(bytes));
                    now = Instant::now();
                }
            }
            sink.flush().await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use tokio::time::timeout;

    use super::*;

    /// A client that takes everything.
    #[derive(Default)]
    struct Taken {
        bytes: Vec<u8>,
        has_ended: bool,
    }

    impl Sink for Taken {
        fn interim(&mut self, _response: &ResponseHead) {}

        fn head(&mut self, _response: &ResponseHead, _early: bool, _edits: &ResponseEdits<'_>) {}

        fn data(&mut self, data: Bytes) {
            self.bytes.extend_from_slice(&data);
        }

        fn end(&mut self, _trailers: &[u8]) {
            self.has_ended = true;
        }

        fn write_test_byte(&mut self) {}

        async fn flush(&mut self) -> Result<(), Ended> {
            Ok(())
        }

        fn release_buffers(&mut self) {}

        async fn writable(&mut self) -> Result<(), Ended> {
            Ok(())
        }
    }

    /// A client that stays.
    struct Stays;

    impl ClientWatch for Stays {
        async fn client_gone(&mut self) -> ClientGone {
            std::future::pending().await
        }
    }

    type Parts = stream::BoxStream<'static, Result<Bytes, Ended>>;

    /// What a client is sent within two minutes, and how that ends, if it does.
    async fn relayed(silence: Silence, parts: Parts) -> (String, Option<Result<(), Ended>>) {
        let mut sink = Taken::default();
        let (polls, mut timer) = (PollCounter::default(), Timer::at(Instant::now() + Duration::from_secs(3600)));
        let relay = Relay { silence, timer: &mut timer, slice: PollSlice::new(&polls) };
        let ended = timeout(Duration::from_secs(120), relay.run(parts, Stays, &mut sink)).await.ok();
        assert_eq!(sink.has_ended, ended == Some(Ok(())));
        (String::from_utf8(sink.bytes).unwrap(), ended)
    }

    #[tokio::test(start_paused = true)]
    async fn gh44_a_silent_stream_is_kept_alive_or_cut() {
        let beat = Silence::Heartbeat(Duration::from_secs(50), b":\n\n");
        let part = || stream::iter([Ok(Bytes::from_static(b"a"))]);
        let (sent, ended) = relayed(beat, part().chain(stream::pending()).boxed()).await;
        assert_eq!((&*sent, ended), ("a:\n\n:\n\n", None));
        // A part that comes begins the time anew.
        let late = stream::once(async {
            tokio::time::sleep(Duration::from_secs(40)).await;
            Ok(Bytes::from_static(b"b"))
        });
        let (sent, ended) = relayed(beat, part().chain(late).chain(stream::pending()).boxed()).await;
        assert_eq!((&*sent, ended), ("ab:\n\n", None));
        let (sent, ended) = relayed(beat, part().boxed()).await;
        assert_eq!((&*sent, ended), ("a", Some(Ok(()))));
        let cut = Silence::Cut(Duration::from_secs(50));
        let (sent, ended) = relayed(cut, part().chain(stream::pending()).boxed()).await;
        assert!(sent == "a" && matches!(ended, Some(Err(_))), "{sent} {ended:?}");
        let (sent, ended) = relayed(Silence::Allowed, part().chain(stream::pending()).boxed()).await;
        assert_eq!((&*sent, ended), ("a", None));
    }

    #[tokio::test(start_paused = true)]
    async fn parts_of_any_size_stay_in_order() {
        let sizes = [1, LARGE_PART_BYTES, 2, 3 * MAX_BATCH_BYTES, 5];
        let letter = |at: usize| char::from(b'a' + u8::try_from(at).unwrap()).to_string();
        let parts: Vec<String> = sizes.iter().enumerate().map(|(at, bytes)| letter(at).repeat(*bytes)).collect();
        let expected = parts.concat();
        let parts = stream::iter(parts.into_iter().map(|part| Ok(Bytes::from(part))));
        assert_eq!(relayed(Silence::Allowed, parts.boxed()).await, (expected, Some(Ok(()))));
    }
}
