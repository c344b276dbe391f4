//! Frames of one connection as they come from its socket.

use std::io;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use protocol::{FrameDecoder, FrameTooLarge};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Most bytes taken from a socket at a time: others get their turn.
const READ_BYTES: usize = 64 * 1024;
/// What a buffer has room for at the beginning: most connections carry small packets.
const ROOM_BYTES: usize = 4 * 1024;

/// Reads a socket into a decoder and knows since when a frame is unfinished.
#[derive(Debug)]
pub struct FrameReader {
    decoder: FrameDecoder,
    unfinished_since: Option<Instant>,
}

impl FrameReader {
    /// A reader that takes frames of up to `max_frame_bytes`.
    pub fn new(max_frame_bytes: usize) -> Self {
        Self { decoder: FrameDecoder::new(max_frame_bytes), unfinished_since: None }
    }

    /// Takes what the socket has, without waiting; `false` when the peer has closed its side.
    ///
    /// # Errors
    /// Those of the socket, except that having nothing is none.
    pub fn fill(&mut self, stream: &TcpStream) -> io::Result<bool> {
        let buffer = self.decoder.buffer();
        buffer.reserve(ROOM_BYTES);
        let mut room = BufMut::limit(buffer, READ_BYTES);
        match stream.try_read_buf(&mut room) {
            Ok(bytes) => Ok(bytes > 0),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The next whole frame, or `None` when the socket has to be read first.
    ///
    /// # Errors
    /// [`FrameTooLarge`]: the stream cannot be read any further.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, FrameTooLarge> {
        let frame = self.decoder.next_frame()?;
        if frame.is_some() || !self.decoder.is_mid_frame() {
            self.unfinished_since = None;
        } else {
            self.unfinished_since.get_or_insert_with(Instant::now);
        }
        Ok(frame)
    }

    /// When a frame that has begun must have ended, whatever progress it makes.
    pub fn deadline(&self, frame_timeout: Duration) -> Option<Instant> {
        self.unfinished_since.map(|since| since + frame_timeout)
    }

    /// The bytes of frames that have not been taken.
    pub fn pending(&self) -> &[u8] {
        self.decoder.unfinished()
    }
}
