//! Metrics and the access log.
//!
//! It must not decide anything, and it must not import other folders.

pub(crate) mod access_log;
pub(crate) mod metrics;
pub(crate) mod metrics_page;
