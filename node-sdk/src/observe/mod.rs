//! What operators see of a node's calls: spans for tracing, and metrics.
//!
//! It must not decide anything about a call, and cost nothing where no operator looks. It must
//! import no other folder.

mod call_record;
mod histogram;
mod metrics_page;
mod node_metrics;
mod span;

pub(crate) use self::call_record::{CallOutcome, CallRecord, ServedCall};
pub(crate) use self::metrics_page::{NodeTotals, metrics_page};
pub(crate) use self::node_metrics::{CallStats, NodeMetrics};
pub(crate) use self::span::CallSpan;
