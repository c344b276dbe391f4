//! An accept loop that only its owner ends.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::tcp::close;
use crate::{Listener, LogThrottle, Socket, warn};

/// First pause after the system had no descriptor or memory for a connection.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// Longest pause. Descriptors that become free are used again within this time.
const MAX_PAUSE: Duration = Duration::from_millis(500);
/// The loop pauses after this many connections in a row that died before they were accepted: the
/// errors may come from the listener after all.
const MAX_DEAD_IN_A_ROW: u32 = 100;

/// A listening socket whose errors are handled. It pauses while the system is out of descriptors or
/// memory, and skips connections that died in the backlog.
#[derive(Debug)]
pub struct Acceptor {
    listener: Listener,
    pause: Duration,
    paused_until: Option<Instant>,
    dead_in_a_row: u32,
    log: LogThrottle,
}

impl Acceptor {
    /// Takes a listening socket.
    pub fn new(listener: impl Into<Listener>) -> Self {
        let listener = listener.into();
        Self { listener, pause: FIRST_PAUSE, paused_until: None, dead_in_a_row: 0, log: LogThrottle::default() }
    }

    /// Accepts the next connection. Cancel safe: no connection and no pause is lost.
    pub async fn accept(&mut self) -> (Socket, SocketAddr) {
        loop {
            if let Some(until) = self.paused_until {
                sleep_until(until).await;
                self.paused_until = None;
            }
            match self.listener.accept().await {
                Ok(accepted) => {
                    self.pause = FIRST_PAUSE;
                    self.dead_in_a_row = 0;
                    return accepted;
                }
                Err(error) => self.handle_failure(&error),
            }
        }
    }

    /// Closes the listener, and gives the connections that the system has accepted before.
    /// With `is_shared`, another process accepts from the socket too, and goes on.
    pub fn close(self, is_shared: bool) -> Vec<(Socket, SocketAddr)> {
        match self.listener {
            Listener::Tcp(listener) => {
                let accepted = close(listener, is_shared).into_iter();
                accepted.map(|(stream, peer)| (Socket::Tcp(stream), peer)).collect()
            }
            #[cfg(feature = "virtual-net")]
            Listener::Pipe(_) => Vec::new(),
        }
    }

    fn handle_failure(&mut self, error: &io::Error) {
        let now = Instant::now();
        if is_one_connections_fault(error) && self.dead_in_a_row < MAX_DEAD_IN_A_ROW {
            self.dead_in_a_row += 1;
            return;
        }
        self.paused_until = Some(now + self.pause);
        if let Some(suppressed) = self.log.allow(now.into_std()) {
            let pause_ms = self.pause.as_millis();
            warn!(%error, pause_ms, suppressed, "cannot accept connections now; open ones are still served");
        }
        self.pause = (self.pause * 2).min(MAX_PAUSE);
    }
}

/// Whether an error concerns one connection that died in the backlog, and not the listener.
/// accept(2) of Linux says to retry after such errors.
fn is_one_connections_fault(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    const EPROTO: i32 = 71;
    matches!(
        error.kind(),
        Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::Interrupted
            | Kind::TimedOut
            | Kind::NetworkDown
            | Kind::NetworkUnreachable
            | Kind::HostUnreachable
    ) || error.raw_os_error() == Some(EPROTO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cr2_cr3_errors_of_one_connection_do_not_pause() {
        for (errno, one_connection) in [
            (103, true),  // ECONNABORTED
            (71, true),   // EPROTO
            (4, true),    // EINTR
            (100, true),  // ENETDOWN
            (24, false),  // EMFILE
            (23, false),  // ENFILE
            (105, false), // ENOBUFS
            (12, false),  // ENOMEM
        ] {
            assert_eq!(is_one_connections_fault(&io::Error::from_raw_os_error(errno)), one_connection, "{errno}");
        }
    }
}
