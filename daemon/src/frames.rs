//! Frames of one connection as they come from its socket.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use protocol::{FrameDecoder, FrameTooLarge};
use tokio::time::Instant;

use crate::{Socket, recv_now};

/// Most bytes taken from a socket at a time: others get their turn.
const MOST_ROOM: usize = 64 * 1024;
/// What there is room for at the beginning, and again when little comes: most connections carry small packets.
const LEAST_ROOM: usize = 2 * 1024;

/// Reads a socket into a decoder and knows since when a frame is unfinished.
#[derive(Debug)]
pub struct FrameReader {
    decoder: FrameDecoder,
    /// Room to read into: twice as much when it was filled, half as much when it was hardly used.
    room: usize,
    unfinished_since: Option<Instant>,
}

impl FrameReader {
    /// A reader that takes frames of up to `max_frame_bytes`.
    pub fn new(max_frame_bytes: usize) -> Self {
        Self { decoder: FrameDecoder::new(max_frame_bytes), room: LEAST_ROOM, unfinished_since: None }
    }

    /// Takes what the socket has, without waiting; `false` when the peer has closed its side.
    ///
    /// # Errors
    /// Those of the socket, except that having nothing is none.
    pub fn fill(&mut self, socket: &Socket) -> io::Result<bool> {
        let buffer = self.decoder.buffer();
        let begin = buffer.len();
        buffer.resize(begin + self.room, 0);
        let taken = match socket {
            Socket::Tcp(stream) => recv_now(stream, &mut buffer[begin..]),
            Socket::Pipe(_) => socket.try_read(&mut buffer[begin..]),
        };
        buffer.truncate(begin + taken.as_ref().map_or(0, |bytes| *bytes));
        match taken {
            Ok(bytes) => {
                if bytes == self.room {
                    self.room = (self.room * 2).min(MOST_ROOM);
                } else if bytes < self.room / 4 {
                    self.room = (self.room / 2).max(LEAST_ROOM);
                }
                Ok(bytes > 0)
            }
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
        if frame.is_none() && self.room == LEAST_ROOM && self.decoder.unfinished().is_empty() {
            // Thousands of connections are idle most of the time, and an idle one needs no buffer.
            *self.decoder.buffer() = BytesMut::new();
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
