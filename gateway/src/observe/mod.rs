//! Metrics and the access log. It decides nothing.

pub(crate) mod access_log;
pub(crate) mod metrics;
