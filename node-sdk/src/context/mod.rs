//! What a call hands down to the work that is done for it: the deadline, the trace, and the depth.
//! The rules stand in docs/PROTOCOL.md, under "What a call hands down".
//!
//! It must not know how calls are sent or answered. It must import no other folder.

mod stop;
pub(crate) mod tasks;

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{self, Poll};
use std::time::Duration;

use net::unique_id;
use pin_project_lite::pin_project;
use tokio::time::Instant;

pub use self::stop::Stop;
use self::tasks::NodeTasks;

/// Calls that a handler makes end before its own deadline by a tenth (1 / this) of the time that is
/// left, so that it can still answer, or undo what it has done.
const MARGIN_DIVISOR: u32 = 10;
/// And never earlier than this: it is enough for an answer, or one more call.
const MAX_MARGIN: Duration = Duration::from_millis(100);
/// How long a call may go on without its caller, with all calls that it makes. Callers wait for
/// less: nodes for 5 s and gateways for 10 s, unless they are told otherwise. So there is time to
/// undo the work that was begun for them, and a handler that hangs does not stay for ever.
pub(crate) const FINISH_TIME: Duration = Duration::from_secs(30);
/// A timeout this long before the handler's deadline, or later, has used up the handler's time: it
/// is the sum of the margins in a chain of five calls. An earlier timeout is one that the handler
/// has set, and there is time to try something else.
const LATE_TIME: Duration = Duration::from_millis(500);

/// The context of all work for one call. Small enough to be copied, so that handing it down costs
/// neither an allocation nor a counter.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Context {
    /// The time until which the caller waits; `None` once it reads a stream.
    pub(crate) deadline: Option<Instant>,
    pub(crate) trace: Option<Trace>,
    /// How many calls in a row led to this one.
    pub(crate) hops: u8,
    /// Whether the caller takes a stream, so streams that are opened for it may outlast the
    /// opening.
    pub(crate) may_stream: bool,
    /// Whether the work is finished even if the caller goes.
    pub(crate) is_finished: bool,
}

/// The trace that a call belongs to, by W3C Trace Context; calls made for it belong to it too. As
/// an argument of a handler it begins a trace if the caller has none, which all work for the call
/// belongs to from then on. Handlers without that argument begin none, so a service that does not
/// trace pays nothing. Gateways begin or continue one for each request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    text: [u8; TRACE_BYTES],
}

/// The length of a `traceparent` of version 00, and where its parts are.
const TRACE_BYTES: usize = 55;
const TRACE_ID: std::ops::Range<usize> = 3..35;
const PARENT_ID: std::ops::Range<usize> = 36..52;
const FLAGS: std::ops::Range<usize> = 53..55;

thread_local! {
    static CURRENT: Cell<Context> = const { Cell::new(Context::EMPTY) };
}

impl Context {
    const EMPTY: Self = Self { deadline: None, trace: None, hops: 0, may_stream: false, is_finished: false };

    /// The context of the call that is being handled; an empty one outside of calls.
    pub(crate) fn current() -> Self {
        CURRENT.get()
    }

    /// Replaces the context for the rest of the call that is being handled.
    pub(crate) fn set_current(self) {
        CURRENT.set(self);
    }

    /// Removes the deadline of the call that is being handled, because it has become a stream.
    pub(crate) fn open_stream() {
        CURRENT.set(Self { deadline: None, ..CURRENT.get() });
    }

    /// The context of work that outlasts the call: it has no deadline.
    pub(crate) fn outlasting(self) -> Self {
        Self { deadline: None, ..self }
    }

    /// The context of a call that is finished without its caller. The calls that it makes from now
    /// on, such as those that undo its work, have a time of their own.
    pub(crate) fn finishing(self, now: Instant) -> Self {
        Self { deadline: Some(now + FINISH_TIME), ..self }
    }

    /// Records that a call of the handler has timed out. If the handler is finished in any case,
    /// and hardly any of its time is left, it now has time to undo its work. Otherwise the calls
    /// that undo it would time out, too, before the caller goes and so gives it time.
    pub(crate) fn record_timeout(now: Instant) {
        let context = CURRENT.get();
        let is_late = context.deadline.is_some_and(|deadline| deadline <= now + LATE_TIME);
        if context.is_finished && is_late {
            CURRENT.set(context.finishing(now));
        }
    }

    /// The deadline of a call that is made now for this one.
    pub(crate) fn inner_deadline(&self, now: Instant) -> Option<Instant> {
        let deadline = self.deadline?;
        let margin = (deadline.saturating_duration_since(now) / MARGIN_DIVISOR).min(MAX_MARGIN);
        Some(deadline.checked_sub(margin).unwrap_or(deadline))
    }

    /// Runs `act` in this context, and keeps the changes that `act` makes.
    pub(crate) fn enter<T>(&mut self, act: impl FnOnce() -> T) -> T {
        /// Restores the previous context, even when `act` panics.
        struct LeaveOnDrop<'a> {
            before: Context,
            entered: &'a mut Context,
        }
        impl Drop for LeaveOnDrop<'_> {
            fn drop(&mut self) {
                *self.entered = CURRENT.replace(self.before);
            }
        }
        let _leave = LeaveOnDrop { before: CURRENT.replace(*self), entered: self };
        act()
    }
}

impl Trace {
    /// Reads a `traceparent` of version 00: W3C Trace Context, 3.2.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text: [u8; TRACE_BYTES] = text.as_bytes().try_into().ok()?;
        // All bytes are looked at, so that the compiler can look at many at a time.
        let is_hex = |digits: &[u8]| {
            digits.iter().fold(true, |hex, byte| hex & (byte.is_ascii_digit() | (b'a'..=b'f').contains(byte)))
        };
        let (trace, parent) = (&text[TRACE_ID], &text[PARENT_ID]);
        let is_framed = text.starts_with(b"00-") && text[TRACE_ID.end] == b'-' && text[PARENT_ID.end] == b'-';
        let is_sound = is_framed && is_hex(trace) && is_hex(parent) && is_hex(&text[FLAGS]);
        let is_known = |id: &[u8]| id.iter().any(|byte| *byte != b'0');
        (is_sound && is_known(trace) && is_known(parent)).then_some(Self { text })
    }

    /// A new trace.
    pub(crate) fn begin() -> Self {
        let mut trace = Self { text: *b"00-00000000000000000000000000000000-0000000000000000-01" };
        put_hex(&mut trace.text[TRACE_ID], unique_id());
        trace.child()
    }

    /// The trace of a call made in this one: the same id, and a parent of its own.
    pub(crate) fn child(mut self) -> Self {
        put_hex(&mut self.text[PARENT_ID], low(unique_id()).into());
        self
    }

    /// The id of the trace: 32 hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.traceparent()[TRACE_ID]
    }

    /// The `traceparent` of the call, for other systems.
    pub fn traceparent(&self) -> &str {
        std::str::from_utf8(&self.text).expect("only digits and dashes are put there")
    }
}

/// Writes the last digits of a number, as many as there is room for: an even number.
fn put_hex(digits: &mut [u8], number: u128) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in digits.rchunks_exact_mut(2).zip(number.to_le_bytes()) {
        pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0xf)]]);
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.traceparent())
    }
}

/// Half of an id as the id of a span, which must not be 0.
fn low(id: u128) -> u64 {
    u64::try_from(id & u128::from(u64::MAX)).unwrap_or(1).max(1)
}

pin_project! {
    /// A future in the context of a call. It is dropped there, too: what its destructors do is work
    /// for the call.
    #[derive(Debug)]
    pub(crate) struct InContext<F> {
        context: Context,
        // `None` only while it is dropped.
        #[pin]
        future: Option<F>,
    }

    impl<F> PinnedDrop for InContext<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            this.context.enter(|| this.future.set(None));
        }
    }
}

impl<F> InContext<F> {
    pub(crate) fn new(context: Context, future: F) -> Self {
        Self { context, future: Some(future) }
    }
}

impl<F: Future> Future for InContext<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let Some(future) = this.future.as_pin_mut() else { return Poll::Pending };
        this.context.enter(|| future.poll(context))
    }
}

/// Detaches work from the call that is being handled: it is a task that may outlast the call. Calls
/// that the task makes have the call's trace and not its deadline, and go on when its caller goes.
/// [`Node::stop`](crate::Node::stop) waits for such tasks within its time. Tasks of `tokio::spawn`
/// have no trace, and nothing waits for them.
///
/// ```no_run
/// # use node_sdk::{CallError, Peers, ServiceError};
/// async fn order(peers: Peers) -> Result<(), ServiceError> {
///     let later = peers.clone();
///     node_sdk::detach(async move { later.call::<()>("POST/mails", &"thank you").await });
///     Ok(peers.call("POST/payments", &7).await?)
/// }
/// ```
///
/// Work that the response needs is not detached, but awaited together:
/// `tokio::try_join!(peers.call("GET/left", &()), peers.call("GET/right", &()))`.
pub fn detach<F>(future: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    let future = InContext::new(Context::current().outlasting(), future);
    match NodeTasks::current() {
        Some(tasks) => tasks.spawn(future),
        None => tokio::spawn(future),
    }
}

#[cfg(test)]
mod tests {
    use std::panic::AssertUnwindSafe;

    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn traces_are_read_as_w3c_has_them() {
        let trace = Trace::parse(PARENT).unwrap();
        assert_eq!((trace.id(), trace.traceparent()), ("4bf92f3577b34da6a3ce929d0e0e4736", PARENT));
        let child = Trace::parse(trace.child().traceparent()).unwrap();
        assert!(child.id() == trace.id() && child != trace);
        assert!(Trace::parse(Trace::begin().traceparent()).is_some());
        for broken in [
            "",
            "00",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7_01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g",
        ] {
            assert_eq!(Trace::parse(broken), None, "{broken}");
        }
    }

    #[tokio::test]
    async fn a_context_exists_only_inside() {
        let deadline = Some(Instant::now() + Duration::from_secs(1));
        let mut context = Context { deadline, trace: Trace::parse(PARENT), hops: 3, ..Context::default() };
        let inside = || Context::current().trace.map(|trace| trace.traceparent().to_owned());
        assert_eq!(inside(), None);
        let seen = InContext::new(context, async {
            tokio::task::yield_now().await;
            let detached = detach(async { Context::current() }).await.unwrap();
            let plain = tokio::spawn(async { Context::current().trace.is_some() }).await.unwrap();
            Context::open_stream();
            tokio::task::yield_now().await;
            (inside(), (detached.trace.is_some(), detached.deadline, detached.hops), plain, Context::current().deadline)
        });
        assert_eq!(seen.await, (Some(PARENT.to_owned()), (true, None, 3), false, None));
        let panicked = std::panic::catch_unwind(AssertUnwindSafe(|| context.enter(|| panic!("on purpose"))));
        assert!(panicked.is_err() && inside().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn b3_calls_for_a_call_end_a_margin_before_it() {
        let now = Instant::now();
        let check = |left, expected| {
            let context = Context { deadline: Some(now + Duration::from_millis(left)), ..Context::default() };
            assert_eq!(context.inner_deadline(now), Some(now + Duration::from_millis(expected)), "{left} ms");
        };
        check(10_000, 9_900);
        check(1_000, 900);
        check(200, 180);
        // What is called then has another margin, and so it can answer as well.
        check(180, 162);
        check(0, 0);
        assert_eq!(Context::default().inner_deadline(now), None);
    }
}
