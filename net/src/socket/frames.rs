//! Frames of one connection, read from its socket.

use std::io;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use protocol::{FrameDecoder, FrameTooLarge};
use tokio::time::Instant;

use crate::socket::ReadNow;

/// Maximum bytes of one read, so that other connections are served between two reads.
const MAX_READ_BYTES: usize = 64 * 1024;
/// Size of the first read, and of later ones while little arrives. Most connections carry small
/// packets.
const MIN_READ_BYTES: usize = 2 * 1024;
/// A buffer that has held a larger frame is freed after it, because the next frame is rarely as
/// large.
const USUAL_FRAME_BYTES: usize = 64 * 1024;

/// Reads a socket into a decoder, and records since when a frame is unfinished.
#[derive(Debug)]
pub struct FrameReader {
    decoder: FrameDecoder,
    /// Bytes of the next read: doubled after a read that filled them, halved after one that used
    /// less than a quarter.
    read_bytes: usize,
    unfinished_since: Option<Instant>,
}

impl FrameReader {
    /// A reader of frames of up to `max_frame_bytes`.
    pub fn new(max_frame_bytes: usize) -> Self {
        Self { decoder: FrameDecoder::new(max_frame_bytes), read_bytes: MIN_READ_BYTES, unfinished_since: None }
    }

    /// Reads the available bytes, without waiting. Returns `false` when the peer has closed its
    /// side.
    ///
    /// # Errors
    /// Those of the socket, except `WouldBlock`, which counts as nothing read.
    pub fn fill(&mut self, socket: &impl ReadNow) -> io::Result<bool> {
        self.fill_at_most(socket, MAX_READ_BYTES)
    }

    /// As [`fill`](Self::fill), of at most `max` bytes, or 2 kB if that is more.
    ///
    /// # Errors
    /// As for [`fill`](Self::fill).
    pub fn fill_at_most(&mut self, socket: &impl ReadNow, max: usize) -> io::Result<bool> {
        let max = max.max(MIN_READ_BYTES);
        self.read_bytes = self.read_bytes.min(max);
        // Raw bytes are read up to their end: what is behind them would have to be copied.
        let missing = self.decoder.missing_bytes().map(|missing| missing.min(max).min(MAX_READ_BYTES));
        let limit = missing.unwrap_or(self.read_bytes);
        let buffer = self.decoder.buffer();
        buffer.reserve(limit);
        match socket.recv_buf_now(&mut buffer.limit(limit)) {
            Ok(bytes) => {
                if missing.is_some() {
                    // More such frames may follow.
                    self.read_bytes = MIN_READ_BYTES;
                } else if bytes == self.read_bytes {
                    self.read_bytes = (self.read_bytes * 2).min(MAX_READ_BYTES);
                } else if bytes < self.read_bytes / 4 {
                    self.read_bytes = (self.read_bytes / 2).max(MIN_READ_BYTES);
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
    /// [`FrameTooLarge`]: the rest of the stream cannot be read.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, FrameTooLarge> {
        let frame = self.decoder.next_frame()?;
        if frame.is_some() || !self.decoder.is_mid_frame() {
            self.unfinished_since = None;
        } else {
            self.unfinished_since.get_or_insert_with(Instant::now);
        }
        if frame.as_ref().is_some_and(|frame| frame.len() > USUAL_FRAME_BYTES) {
            // Done at once: otherwise the bytes after the frame would keep all of its memory until
            // they are a whole frame.
            let rest = BytesMut::from(self.decoder.unfinished());
            *self.decoder.buffer() = rest;
        } else if frame.is_none() && self.decoder.unfinished().is_empty() && self.read_bytes == MIN_READ_BYTES {
            // Thousands of connections are idle most of the time, and an idle one keeps no buffer.
            *self.decoder.buffer() = BytesMut::new();
        }
        Ok(frame)
    }

    /// Takes raw bytes that follow a frame: see [`FrameDecoder::take_attachments`].
    pub fn take_attachments(&mut self) {
        self.decoder.take_attachments();
    }

    /// Sets whether frames are joined that a peer of version 1 has cut: see
    /// [`FrameDecoder::join_pieces`].
    pub fn join_pieces(&mut self, joins: bool) {
        self.decoder.join_pieces(joins);
    }

    /// How many pieces the last frame was joined of: see [`FrameDecoder::pieces`].
    pub fn pieces(&self) -> usize {
        self.decoder.pieces()
    }

    /// Stops waiting for the rest of a packet that was cut, and returns its first piece. The time
    /// of the bytes behind that piece begins again. `None` when there is no piece.
    pub fn give_up_pieces(&mut self) -> Option<Bytes> {
        let piece = self.decoder.give_up_pieces();
        if piece.is_some() {
            self.unfinished_since = None;
        }
        piece
    }

    /// When the frame that has begun must be complete, however steadily its bytes come.
    pub fn deadline(&self, frame_timeout: Duration) -> Option<Instant> {
        self.unfinished_since.map(|since| since + frame_timeout)
    }

    /// Restarts the time of a frame that has begun, because this process did not read until now.
    pub fn defer_deadline(&mut self) {
        if self.unfinished_since.is_some() {
            self.unfinished_since = Some(Instant::now());
        }
    }

    /// The bytes that have been read but are not a whole frame yet.
    pub fn buffered(&self) -> &[u8] {
        self.decoder.unfinished()
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::Socket;

    #[tokio::test]
    async fn a_large_frame_frees_its_buffer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let socket = Socket::Tcp(listener.accept().await.unwrap().0);
        let frame = "x".repeat(1 << 20);
        for rest in ["", "{", "{\"uri\":"] {
            let mut bytes = format!("{frame}¶{rest}").into_bytes();
            let mut reader = FrameReader::new(2 << 20);
            let mut frames = 0;
            while !bytes.is_empty() || reader.buffered() != rest.as_bytes() {
                match peer.try_write(&bytes) {
                    Ok(written) => drop(bytes.drain(..written)),
                    Err(_full) => {}
                }
                socket.readable().await.unwrap();
                assert!(reader.fill_at_most(&socket, 16 * 1024).unwrap());
                while reader.next_frame().unwrap().is_some() {
                    frames += 1;
                    // At once, because a task that has to wait may not ask for the next frame for a
                    // long time.
                    let room = reader.decoder.buffer().capacity();
                    assert!(room <= USUAL_FRAME_BYTES, "{rest}: {room}");
                }
            }
            assert_eq!(frames, 1);
            let room = reader.decoder.buffer().capacity();
            assert!(room <= USUAL_FRAME_BYTES, "{rest}: {room}");
        }
    }
}
