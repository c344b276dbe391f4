//! Waiting for a time that may not be set.

use tokio::time::{Instant, sleep_until};

/// Completes at `time`, or never. Cancel safe.
pub async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
