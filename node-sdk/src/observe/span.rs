//! The spans of calls. Where no subscriber listens, one costs the check of a number.

use std::fmt::Display;

use net::log_safely;
use net::tracing::field::{Empty, display};
use net::tracing::level_filters::LevelFilter;
use net::tracing::{Level, Span, debug_span};

/// The span of a call, if a subscriber listens. On the heap, because most calls have none.
#[derive(Debug, Default)]
pub(crate) struct CallSpan(Option<Box<Span>>);

impl CallSpan {
    /// The span of a call that this node makes. The provider, the attempt, the status and the trace
    /// are recorded later.
    #[inline]
    pub(crate) fn of_call(method: &str, path: &str) -> Self {
        if LevelFilter::current() < Level::DEBUG { Self(None) } else { Self::begin_call(method, path) }
    }

    #[cold]
    fn begin_call(method: &str, path: &str) -> Self {
        Self::create(|| {
            debug_span!(
                target: "node_sdk::call",
                "call",
                url = %format_args!("{method}{path}"),
                provider = Empty,
                attempt = Empty,
                status = Empty,
                error = Empty,
                traceparent = Empty,
            )
        })
    }

    /// Whether a subscriber listens to the spans of calls that this node serves.
    #[inline]
    pub(crate) fn records_served() -> bool {
        LevelFilter::current() >= Level::DEBUG
    }

    /// The span of a call that this node serves.
    #[cold]
    pub(crate) fn of_served(route: &str, caller: impl Display) -> Self {
        Self::create(|| {
            debug_span!(
                target: "node_sdk::serve",
                "serve",
                url = route,
                caller = %caller,
                status = Empty,
                traceparent = Empty,
            )
        })
    }

    /// A subscriber that panics costs the span, and not the call.
    fn create(make: impl FnOnce() -> Span) -> Self {
        let mut made = None;
        log_safely(|| made = Some(make()));
        Self(made.filter(|span| !span.is_disabled()).map(Box::new))
    }

    /// The span, if a subscriber listens.
    #[inline]
    pub(crate) fn seen(&self) -> Option<Span> {
        self.0.as_deref().cloned()
    }

    /// Whether a subscriber listens.
    #[inline]
    pub(crate) fn is_seen(&self) -> bool {
        self.0.is_some()
    }

    /// Says what has become known of the call.
    pub(crate) fn record(&self, field: &str, value: impl Display) {
        if let Some(span) = &self.0 {
            log_safely(|| {
                span.record(field, display(value));
            });
        }
    }

    /// Runs `act` in the span, if a subscriber listens.
    #[inline]
    pub(crate) fn in_scope<T>(&self, act: impl FnOnce() -> T) -> T {
        match &self.0 {
            None => act(),
            Some(span) => span.in_scope(act),
        }
    }
}

/// Subscribers that print may panic when a span ends.
impl Drop for CallSpan {
    #[inline]
    fn drop(&mut self) {
        if let Some(span) = self.0.take() {
            log_safely(|| drop(span));
        }
    }
}
