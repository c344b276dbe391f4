//! The bytes that one socket has still to send, without I/O: in order, those that are queued, those
//! that are written directly, and those that the system has not taken.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::task::Poll;

use bytes::{Buf, BytesMut};

use crate::buffers;

/// Maximum bytes of one socket that are queued: a head and a small body. A larger message gains
/// nothing from waiting, and its copy costs time.
pub const MAX_QUEUED_BYTES: usize = 4 * 1024;

/// Bytes that were accepted from a socket's writers and have not been given to the system.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    stage: Stage,
    /// Whether the system did not take all of the last write. It will hardly take the next one.
    is_full: bool,
}

#[derive(Debug, Default)]
enum Stage {
    /// Everything has been given to the system.
    #[default]
    Clear,
    /// The bytes wait until other tasks have run.
    Queued(BytesMut),
    /// The queued bytes that the system has not taken. They leave before all others.
    Held(BytesMut),
    /// The connection is lost.
    Broken(ErrorKind),
    /// No more is sent.
    Ended,
}

/// Where the accepted bytes of a socket are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BytesState {
    /// No bytes wait: the system has them, or no more are sent.
    Nothing,
    /// The bytes wait until other tasks have run.
    Queued,
    /// The bytes wait for the system.
    Held,
    /// The bytes are lost, with the connection.
    Lost,
}

impl Outgoing {
    /// Where the accepted bytes are.
    pub(super) fn state(&self) -> BytesState {
        match self.stage {
            Stage::Clear | Stage::Ended => BytesState::Nothing,
            Stage::Queued(_) => BytesState::Queued,
            Stage::Held(_) => BytesState::Held,
            Stage::Broken(_) => BytesState::Lost,
        }
    }

    /// Accepts the bytes of these pieces, and returns how many. Few bytes are queued if
    /// `may_queue`; others are given to `send` at once, behind all that was accepted before.
    ///
    /// # Errors
    /// Those of `send`; `WouldBlock` also while earlier bytes are held.
    pub(super) fn write(
        &mut self,
        pieces: &[IoSlice<'_>],
        may_queue: bool,
        mut send: impl FnMut(&[IoSlice<'_>]) -> Result<usize>,
    ) -> Result<usize> {
        let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        let may_queue = may_queue && bytes <= MAX_QUEUED_BYTES;
        if let Stage::Queued(queued) = &mut self.stage {
            if may_queue && queued.len() + bytes <= MAX_QUEUED_BYTES {
                pieces.iter().for_each(|piece| queued.extend_from_slice(piece));
                return Ok(bytes);
            }
            self.send_queued(&mut send);
        }
        match &self.stage {
            Stage::Clear => {}
            Stage::Queued(_) | Stage::Held(_) => return Err(ErrorKind::WouldBlock.into()),
            Stage::Broken(kind) => return Err(Error::from(*kind)),
            Stage::Ended => return Err(ErrorKind::BrokenPipe.into()),
        }
        if may_queue && bytes > 0 && !self.is_full {
            let mut queued = buffers::acquire();
            pieces.iter().for_each(|piece| queued.extend_from_slice(piece));
            self.stage = Stage::Queued(queued);
            return Ok(bytes);
        }
        let sent = send(pieces);
        self.is_full = match &sent {
            Ok(sent) => *sent < bytes,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        };
        sent
    }

    /// Sends the queued bytes. Those that the system does not take are held.
    pub(super) fn send_queued(&mut self, send: impl FnMut(&[IoSlice<'_>]) -> Result<usize>) {
        if let Stage::Queued(queued) = &mut self.stage {
            let queued = std::mem::take(queued);
            self.send_or_hold(queued, send);
        }
    }

    /// Sends the held bytes, once the system takes more.
    pub(super) fn send_held(&mut self, send: impl FnMut(&[IoSlice<'_>]) -> Result<usize>) {
        if let Stage::Held(held) = &mut self.stage {
            let held = std::mem::take(held);
            self.send_or_hold(held, send);
        }
    }

    fn send_or_hold(&mut self, mut bytes: BytesMut, mut send: impl FnMut(&[IoSlice<'_>]) -> Result<usize>) {
        self.stage = loop {
            match send(&[IoSlice::new(&bytes)]) {
                Ok(sent) if sent == bytes.len() => {
                    buffers::release(bytes);
                    self.is_full = false;
                    break Stage::Clear;
                }
                Ok(0) => break Stage::Broken(ErrorKind::WriteZero),
                Ok(sent) => bytes.advance(sent),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.is_full = true;
                    break Stage::Held(bytes);
                }
                Err(error) => break Stage::Broken(error.kind()),
            }
        };
    }

    /// Completes when nothing that was accepted is held: it has been sent, or is queued.
    ///
    /// # Errors
    /// The one that the connection was lost by.
    pub(super) fn poll_flush(&self) -> Poll<Result<()>> {
        match self.stage {
            Stage::Clear | Stage::Queued(_) | Stage::Ended => Poll::Ready(Ok(())),
            Stage::Held(_) => Poll::Pending,
            Stage::Broken(kind) => Poll::Ready(Err(kind.into())),
        }
    }

    /// Completes when everything that was accepted has been sent. From then on nothing is accepted.
    ///
    /// # Errors
    /// The one that the connection was lost by.
    pub(super) fn poll_end(&mut self, send: impl FnMut(&[IoSlice<'_>]) -> Result<usize>) -> Poll<Result<()>> {
        self.send_queued(send);
        match self.stage {
            Stage::Clear | Stage::Ended => {
                self.stage = Stage::Ended;
                Poll::Ready(Ok(()))
            }
            Stage::Queued(_) | Stage::Held(_) => Poll::Pending,
            Stage::Broken(kind) => Poll::Ready(Err(kind.into())),
        }
    }

    /// Discards the held bytes once the socket has no owner. Returns whether bytes were lost.
    pub(super) fn abandon(&mut self) -> bool {
        let loses = matches!(self.stage, Stage::Held(_));
        if loses {
            self.stage = Stage::Ended;
        }
        loses
    }
}

#[cfg(test)]
mod tests;
