//! Stopping on request.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// A token that SIGTERM or SIGINT (Ctrl-C) cancels. A second signal ends the process at once, with status 130.
///
/// # Errors
/// When the system refuses the handlers; then signals end the process as usual.
pub fn stop_on_signals() -> io::Result<CancellationToken> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let token = CancellationToken::new();
    let stopping = token.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
            }
        };
        let signal = next().await;
        info!(signal, "stopping; once more to stop at once");
        stopping.cancel();
        next().await;
        // 128 + SIGINT, what a shell shows for a program that Ctrl-C ended.
        std::process::exit(130);
    });
    Ok(token)
}
