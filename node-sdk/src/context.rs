//! What a call hands down to the calls that are made while it is handled: the deadline, the trace,
//! and the depth.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};

use net::unique_id;
use pin_project_lite::pin_project;
use tokio::time::Instant;

/// What applies to all work for one call.
#[derive(Clone, Debug, Default)]
pub(crate) struct Context {
    pub(crate) deadline: Option<Instant>,
    pub(crate) trace: Option<Trace>,
    /// How many calls in a row led to this one.
    pub(crate) hops: u8,
}

/// The trace that a call belongs to, by W3C Trace Context; calls made for it belong to it too. As
/// an argument of a handler it begins a trace if the caller has none. Handlers without that
/// argument begin none, so a service that does not trace pays nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Trace {
    text: Arc<str>,
}

thread_local! {
    static CURRENT: RefCell<Context> = RefCell::default();
}

impl Context {
    /// The context of the call that is being handled; an empty one outside of calls.
    pub(crate) fn current() -> Self {
        CURRENT.with_borrow(Clone::clone)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.deadline.is_none() && self.trace.is_none() && self.hops == 0
    }

    /// Runs `act` in this context.
    pub(crate) fn enter<T>(&self, act: impl FnOnce() -> T) -> T {
        if self.is_empty() && CURRENT.with_borrow(Self::is_empty) {
            return act();
        }
        /// Restores the context before, even when `act` panics.
        struct RestoreOnDrop(Option<Context>);
        impl Drop for RestoreOnDrop {
            fn drop(&mut self) {
                if let Some(before) = self.0.take() {
                    CURRENT.set(before);
                }
            }
        }
        let _leave = RestoreOnDrop(Some(CURRENT.replace(self.clone())));
        act()
    }
}

impl Trace {
    /// Reads a `traceparent` of version 00: W3C Trace Context, 3.2.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let hex = |part: &str, length| {
            part.len() == length && part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        };
        let mut parts = text.split('-');
        let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let sound = version == "00" && hex(trace, 32) && hex(parent, 16) && hex(flags, 2) && parts.next().is_none();
        let known = trace.bytes().any(|byte| byte != b'0') && parent.bytes().any(|byte| byte != b'0');
        (sound && known).then(|| Self { text: text.into() })
    }

    /// A new trace.
    pub(crate) fn begin() -> Self {
        Self { text: format!("00-{:032x}-{:016x}-01", unique_id(), low(unique_id())).into() }
    }

    /// The `traceparent` of a call made in this trace: the same trace, and a parent of its own.
    pub(crate) fn child(&self) -> String {
        format!("00-{}-{:016x}-{}", self.id(), low(unique_id()), &self.text[53..])
    }

    /// The id of the trace: 32 hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.text[3..35]
    }

    /// The `traceparent` of the call, for other systems.
    pub fn traceparent(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Half of an id as the id of a span, which must not be 0.
fn low(id: u128) -> u64 {
    u64::try_from(id & u128::from(u64::MAX)).unwrap_or(1).max(1)
}

pin_project! {
    /// A future in the context of a call.
    #[derive(Debug)]
    pub(crate) struct InContext<F> {
        context: Context,
        #[pin]
        future: F,
    }
}

impl<F> InContext<F> {
    pub(crate) fn new(context: Context, future: F) -> Self {
        Self { context, future }
    }
}

impl<F: Future> Future for InContext<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        this.context.enter(|| this.future.poll(context))
    }
}

/// Spawns a task in the context of the call that is being handled: the calls that the task makes
/// have its deadline and trace. Tasks of `tokio::spawn` have neither.
///
/// ```no_run
/// # use node_sdk::{CallError, Peers, ServiceError};
/// async fn both(peers: Peers) -> Result<u64, ServiceError> {
///     let other = peers.clone();
///     let left = node_sdk::spawn(async move { other.call::<u64>("GET/left", &()).await });
///     let right: u64 = peers.call("GET/right", &()).await?;
///     let left = left.await.map_err(|panic| ServiceError::internal(panic.to_string()))??;
///     Ok(left + right)
/// }
/// ```
pub fn spawn<F>(future: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    tokio::spawn(InContext::new(Context::current(), future))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn traces_are_read_as_w3c_has_them() {
        let trace = Trace::parse(PARENT).unwrap();
        assert_eq!((trace.id(), trace.traceparent()), ("4bf92f3577b34da6a3ce929d0e0e4736", PARENT));
        let child = Trace::parse(&trace.child()).unwrap();
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
        ] {
            assert_eq!(Trace::parse(broken), None, "{broken}");
        }
    }

    #[tokio::test]
    async fn a_context_is_there_inside_and_gone_outside() {
        let context = Context { trace: Trace::parse(PARENT), ..Context::default() };
        let inside = || Context::current().trace.map(|trace| trace.traceparent().to_owned());
        assert_eq!(inside(), None);
        let seen = InContext::new(context.clone(), async {
            tokio::task::yield_now().await;
            let spawned = spawn(async { Context::current().trace.is_some() }).await.unwrap();
            let plain = tokio::spawn(async { Context::current().trace.is_some() }).await.unwrap();
            (inside(), spawned, plain)
        });
        assert_eq!(seen.await, (Some(PARENT.to_owned()), true, false));
        let panicked = std::panic::catch_unwind(|| context.enter(|| panic!("on purpose")));
        assert!(panicked.is_err() && inside().is_none());
    }
}
