//! What is told of requests: metrics and the access log. It decides nothing.

pub(crate) mod access_log;
pub(crate) mod metrics;
