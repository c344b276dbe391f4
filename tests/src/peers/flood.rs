//! A peer that sends the same bytes again and again, as fast as they are accepted.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// A connection of its own, in a thread of its own. It ends when dropped.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    bytes: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// Sends `first`, then `again` without a pause, and discards all that it receives. It stops
    /// when the connection is cut.
    pub fn start(address: SocketAddr, first: &[u8], again: &[u8]) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(first).unwrap();
        let mut reader = stream.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut scrap = vec![0; 1 << 16];
            while reader.read(&mut scrap).is_ok_and(|bytes| bytes > 0) {}
        });
        stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
        let (stop, bytes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, sent) = (Arc::clone(&stop), Arc::clone(&bytes));
        let again = again.to_vec();
        let thread = std::thread::spawn(move || {
            let mut at = 0;
            while !stopped.load(Ordering::Relaxed) {
                match stream.write(&again[at..]) {
                    Ok(taken) => {
                        at = (at + taken) % again.len();
                        sent.fetch_add(taken as u64, Ordering::Relaxed);
                    }
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    Err(_cut) => break,
                }
            }
            let _ = stream.shutdown(std::net::Shutdown::Both);
        });
        Self { stop, bytes, thread: Some(thread) }
    }

    /// How many bytes have been accepted.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
