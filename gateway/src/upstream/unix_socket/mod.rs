//! The Unix sockets of servers, their files and their faults.
//!
//! It must not open a connection: `connector` does.

pub(crate) mod unix_fault;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use foldhash::HashMap;
use net::{LogThrottle, ServerAddress, Socket, UnixPath};
use tokio::time::Instant;
use tracing::{info, warn};

use self::unix_fault::{SocketFile, UnixFault};
use crate::upstream::drop_unused;

/// Log lines about sockets in ten seconds: each is of interest, unless one flaps, or all of them
/// do.
const MAX_LINES: u32 = 20;

/// The sockets that all workers know. A fault of a socket is logged once, however many workers use
/// the socket.
#[derive(Debug)]
pub(crate) struct UnixSockets {
    known: Mutex<HashMap<UnixPath, Weak<UnixSocket>>>,
    log_throttle: Arc<Mutex<LogThrottle>>,
}

/// The socket of one server.
#[derive(Debug)]
pub(crate) struct UnixSocket {
    pub(crate) path: UnixPath,
    fault: Mutex<Option<UnixFault>>,
    /// Whether the fault is one of the file. Requests read this without the lock.
    is_unusable: AtomicBool,
    log_throttle: Arc<Mutex<LogThrottle>>,
}

impl Default for UnixSockets {
    fn default() -> Self {
        let log_throttle = LogThrottle::with_burst(MAX_LINES, LogThrottle::LOG_PERIOD);
        Self { known: Mutex::default(), log_throttle: Arc::new(Mutex::new(log_throttle)) }
    }
}

impl UnixSockets {
    /// The socket at a path. The fault of a new socket is logged.
    pub(crate) fn get(&self, path: &UnixPath) -> Arc<UnixSocket> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(socket) = known.get(path).and_then(Weak::upgrade) {
            return socket;
        }
        drop_unused(&mut known);
        let socket = Arc::new(UnixSocket {
            path: path.clone(),
            fault: Mutex::default(),
            is_unusable: AtomicBool::new(false),
            log_throttle: Arc::clone(&self.log_throttle),
        });
        known.insert(path.clone(), Arc::downgrade(&socket));
        drop(known);
        socket.observe();
        socket
    }
}

impl UnixSocket {
    /// Connects, and logs it if that fails or succeeds after a failure. Cancel safe.
    ///
    /// # Errors
    /// Those of [`ServerAddress::connect`].
    pub(crate) async fn connect(&self) -> io::Result<Socket> {
        let connected = ServerAddress::Unix(self.path.clone()).connect().await;
        match &connected {
            Ok(_) => self.record(None),
            Err(error) => self.record(Some(UnixFault::of_error(self.path.as_path(), error))),
        }
        connected
    }

    /// The file at the path, unless it has a fault. Logs a change. Asks the system, which takes
    /// about a microsecond.
    pub(crate) fn observe(&self) -> Option<SocketFile> {
        match SocketFile::at(&self.path) {
            Ok(file) => {
                if self.is_unusable() {
                    self.record(None);
                }
                Some(file)
            }
            Err(fault) => {
                self.record(Some(fault));
                None
            }
        }
    }

    /// Whether its file has a fault, so that no connection can be made.
    pub(crate) fn is_unusable(&self) -> bool {
        self.is_unusable.load(Ordering::Relaxed)
    }

    /// The present fault.
    pub(crate) fn fault(&self) -> Option<UnixFault> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records the present fault, and logs a change.
    pub(crate) fn record(&self, fault: Option<UnixFault>) {
        {
            let mut known = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
            if *known == fault {
                return;
            }
            known.clone_from(&fault);
            self.is_unusable.store(fault.as_ref().is_some_and(UnixFault::is_of_file), Ordering::Relaxed);
        }
        let now = Instant::now().into_std();
        let passed = self.log_throttle.lock().unwrap_or_else(PoisonError::into_inner).allow(now);
        let server = &self.path;
        match (fault, passed) {
            (Some(why), Some(suppressed)) => warn!(%server, suppressed, "a server cannot be connected to: {why}"),
            (None, Some(suppressed)) => info!(%server, suppressed, "the socket of a server can be used again"),
            (_, None) => {}
        }
    }
}
