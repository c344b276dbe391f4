//! When a client's connection has been still for too long, whatever it was about to do.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::time::{Instant, sleep_until};

use crate::config::Config;

/// What a connection is doing, shared by its socket, its requests and its watchdog.
#[derive(Clone, Debug)]
pub(crate) struct Watch(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    begin: Instant,
    doing: AtomicU8,
    /// Milliseconds after `begin` at which it began to do that.
    since: AtomicU64,
}

/// Waiting for a request.
const IDLE: u8 = 0;
/// Taking in the head of a request.
const HEAD: u8 = 1;
/// Working on a request; its own time-outs hold.
const BUSY: u8 = 2;
/// The socket takes nothing of a response.
const STALLED: u8 = 3;

impl Watch {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared { begin: Instant::now(), doing: AtomicU8::new(HEAD), since: AtomicU64::new(0) }))
    }

    /// Completes when the connection has done one thing for too long, and says what. Looks again only when the time it
    /// saw last is over, so that requests need not touch a timer.
    pub(crate) async fn expired(&self, config: &Config) -> &'static str {
        loop {
            let (limit, what) = match self.0.doing.load(Ordering::Relaxed) {
                IDLE => (config.idle_timeout, "idle"),
                HEAD => (config.header_timeout, "slow head"),
                STALLED => (config.write_timeout, "takes no response"),
                _busy => {
                    sleep_until(Instant::now() + config.header_timeout).await;
                    continue;
                }
            };
            let since = self.0.begin + Duration::from_millis(self.0.since.load(Ordering::Relaxed));
            if Instant::now() >= since + limit {
                return what;
            }
            // It may be doing something else by then, with a shorter limit.
            let shortest = config.header_timeout.min(config.write_timeout);
            sleep_until((since + limit).min(Instant::now() + shortest)).await;
        }
    }

    /// A request begins; it ends when the guard is dropped.
    pub(crate) fn request(&self) -> Busy {
        self.set(BUSY);
        Busy(self.clone())
    }

    fn is(&self, doing: u8) -> bool {
        self.0.doing.load(Ordering::Relaxed) == doing
    }

    fn set(&self, doing: u8) {
        let since = u64::try_from(self.0.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.since.store(since, Ordering::Relaxed);
        self.0.doing.store(doing, Ordering::Relaxed);
    }
}

/// A request at work.
#[derive(Debug)]
pub(crate) struct Busy(Watch);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.set(IDLE);
    }
}

/// A client's socket that tells its watch what it does.
#[derive(Debug)]
pub(crate) struct Watched<S> {
    pub(crate) socket: S,
    pub(crate) watch: Watch,
}

impl<S: Read + Unpin> Read for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.socket).poll_read(context, buffer);
        // The end of the stream counts as well: nothing comes after it.
        if polled.is_ready() && self.watch.is(IDLE) {
            self.watch.set(HEAD);
        }
        polled
    }
}

impl<S: Write> Watched<S> {
    fn note<T>(&self, polled: Poll<T>) -> Poll<T> {
        match (polled.is_pending(), self.watch.is(STALLED)) {
            (true, false) => self.watch.set(STALLED),
            (false, true) => self.watch.set(IDLE),
            (true, true) | (false, false) => {}
        }
        polled
    }
}

impl<S: Write + Unpin> Write for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.note(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.socket).poll_write_vectored(context, buffers);
        self.note(polled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After `steps` of (milliseconds later, doing), what expires and when.
    async fn check(steps: &[(u64, u8)], expected: (&str, u64)) {
        let config = Config {
            idle_timeout: Duration::from_millis(600),
            header_timeout: Duration::from_millis(100),
            write_timeout: Duration::from_millis(300),
            ..Config::default()
        };
        let watch = Watch::new();
        let begin = Instant::now();
        let steps = async {
            for (later, doing) in steps {
                tokio::time::sleep(Duration::from_millis(*later)).await;
                watch.set(*doing);
            }
            std::future::pending().await
        };
        let what = tokio::select! { what = watch.expired(&config) => what, () = steps => unreachable!() };
        assert_eq!((what, begin.elapsed().as_millis()), (expected.0, u128::from(expected.1)));
    }

    #[tokio::test(start_paused = true)]
    async fn each_phase_has_its_own_limit() {
        check(&[], ("slow head", 100)).await;
        check(&[(50, BUSY), (0, IDLE)], ("idle", 650)).await;
        check(&[(50, BUSY), (1000, IDLE), (10, HEAD)], ("slow head", 1160)).await;
        check(&[(50, BUSY), (10, STALLED)], ("takes no response", 360)).await;
        check(&[(50, IDLE), (200, HEAD)], ("slow head", 350)).await;
        check(&[(50, IDLE), (500, BUSY), (0, IDLE)], ("idle", 1150)).await;
    }
}
