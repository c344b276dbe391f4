//! The frames that a node sends over a connection: each goes to the call or stream that waits for
//! it.

use std::sync::atomic::Ordering;

use net::{MAX_ESCAPED_BYTES, debug, escaped, warn};
use protocol::{
    HELLO_URI, Packet, Part, Side, Version, parse_part, parse_raw_part, read_credit, response_parts, split_attachment,
};
use tokio::time::Instant;

use super::driver::{Driver, WRONG_INSTANCE_PAUSE};
use super::unexpected::cost_of;
use super::{Connection, ConnectionState};
use crate::transport::in_flight::InFlight;
use crate::transport::response_frame::ResponseFrame;
use crate::transport::target::Target;

/// Responses that are handed out before their callers run, so that client and server work at the
/// same time.
const RESPONSES_PER_YIELD: usize = 32;

/// The frames of one read.
struct Received {
    /// Frames that a call or stream waited for.
    useful: u64,
    /// The points of frames that no call waits for any more, or ever has: see [`cost_of`].
    unexpected: u64,
    /// Whether the node has answered something.
    has_answered: bool,
}

impl Connection {
    /// Reads once, and hands each frame to the call or stream that waits for it.
    pub(super) fn read(&self, socket: &mut Driver) -> Result<(), &'static str> {
        let pieces = self.read_frames(socket)?;
        let now = Instant::now().into_std();
        let mut state = self.lock();
        if pieces > 1
            && let Some(suppressed) = state.bad_frames.allow(now)
        {
            let name = escaped(&self.target.name, MAX_ESCAPED_BYTES);
            warn!(node = %self.address, pieces, suppressed, "a response of {name} was cut by a raw ¶ in a text; its pieces were joined");
        }
        let Received { useful, unexpected, has_answered } = self.hand_out(&mut state, socket, now)?;
        if has_answered && self.is_unproven() {
            self.has_answered.store(true, Ordering::Relaxed);
        }
        let unfinished = socket.reader.buffered().len();
        state.make_room(unfinished, self.address, now)?.into_iter().for_each(std::task::Waker::wake);
        if unexpected > 0 && !state.unexpected.try_spend(now, unexpected, useful) {
            let cool_down = state.unexpected.close(now);
            state.cooling_down_until = Some(Instant::from_std(now + cool_down));
            let shows = state.cut.allow(now);
            drop(state);
            if let Some(suppressed) = shows {
                warn!(
                    node = %self.address, instance = ?self.shown_instance(), rest_s = cool_down.as_secs(), suppressed,
                    "connection closed: the node keeps sending frames that no call waits for"
                );
            }
            return Err("it sends frames that no call waits for");
        }
        Ok(())
    }

    /// Reads once, unless the last read has left frames, and keeps up to
    /// [`RESPONSES_PER_YIELD`] frames. Returns how many pieces the most divided one was joined of.
    fn read_frames(&self, socket: &mut Driver) -> Result<usize, &'static str> {
        if !socket.more {
            match socket.reader.fill(&*socket.stream) {
                Ok(true) => {}
                Ok(false) => return Err("closed by the node"),
                Err(_broken) => return Err("broken"),
            }
        }
        socket.more = false;
        let mut pieces = 1;
        loop {
            let next = socket.reader.next_frame();
            pieces = pieces.max(socket.reader.pieces());
            match next {
                Ok(Some(frame)) => socket.responses.push(frame),
                Ok(None) => return Ok(pieces),
                Err(too_large) => {
                    warn!(node = %self.address, "connection closed: a response is too large: {too_large}");
                    return Err("response too large");
                }
            }
            if socket.responses.len() == RESPONSES_PER_YIELD {
                socket.more = true;
                return Ok(pieces);
            }
        }
    }

    /// Hands the frames that were read to the calls and streams that wait for them.
    fn hand_out(
        &self,
        state: &mut ConnectionState,
        socket: &mut Driver,
        now: std::time::Instant,
    ) -> Result<Received, &'static str> {
        let mut received = Received { useful: 0, unexpected: 0, has_answered: false };
        for frame in socket.responses.drain(..) {
            let (key, kind, frame) = match ResponseFrame::parse_success(frame) {
                Ok((key, frame)) => (Some(key), FrameKind::Response, frame),
                Err(frame) if protocol::is_blank(&frame) => {
                    received.unexpected += cost_of(frame.len());
                    continue;
                }
                Err(frame) => {
                    let (key, kind) = read_head(&frame, &state.calls, &self.target);
                    let is_part = matches!(kind, FrameKind::Part(_));
                    (key, kind, if is_part { ResponseFrame::of_part(frame) } else { ResponseFrame::other(frame) })
                }
            };
            if let FrameKind::Hello { is_meant } = kind {
                if !is_meant {
                    state.is_misdirected = true;
                    state.cooling_down_until = Some(Instant::from_std(now + WRONG_INSTANCE_PAUSE));
                    return Err("another instance listens there");
                }
                received.has_answered = true;
                received.unexpected += cost_of(frame.frame().len());
                continue;
            }
            let answered = match (key, kind) {
                (Some(key), FrameKind::Response) => state.calls.handle_response(now, key, frame),
                (Some(key), FrameKind::Part(part)) => state.calls.handle_part(now, key, part, frame.into_frame()),
                (Some(key), FrameKind::Credit(bytes)) => {
                    state.calls.grant(key, bytes).map(|waker| (None, waker)).map_err(|_useless| frame.into_frame())
                }
                (None, _) | (Some(_), FrameKind::Hello { .. }) => Err(frame.into_frame()),
            };
            match answered {
                Ok((took, waker)) => {
                    received.useful += 1;
                    received.has_answered = true;
                    if let Some(took) = took {
                        self.load.record_response(now, took);
                    }
                    if let Some(waker) = waker {
                        waker.wake();
                    }
                    socket.stalled_since = None;
                }
                Err(frame) => self.handle_unclaimed(state, &mut received, key, kind, &frame),
            }
        }
        Ok(received)
    }

    /// Counts a frame that no call waits for (late, doubled, invented).
    fn handle_unclaimed(
        &self,
        state: &mut ConnectionState,
        received: &mut Received,
        key: Option<u64>,
        kind: FrameKind,
        frame: &[u8],
    ) {
        debug!(node = %self.address, key, "a response that no call waits for");
        let is_late = match (key, kind) {
            (Some(key), FrameKind::Part(part)) if !part.is_end => state.calls.accept_late_part(key, frame.len()),
            (Some(key), FrameKind::Credit(_)) => state.calls.accept_late_part(key, frame.len()),
            (Some(_), _) => state.calls.accept_late_response(key),
            (None, _) => is_null(frame) && state.calls.accept_late_response(None),
        };
        if is_late {
            // A late response is a sign of life.
            received.has_answered = true;
            self.load.reset();
            return;
        }
        received.unexpected += cost_of(frame.len());
        // Packets of version 2 without a key may be of later versions.
        let is_legacy = self.version == Version::V1;
        if key.is_none() && (is_legacy || Packet::parse(frame).is_err()) {
            let hint = if is_legacy { "; a raw ¶ in a text cuts an answer" } else { "" };
            let why = format_args!("it is not a packet, or has no key, and is lost{hint}");
            self.connector.malformed.record(self.address, &self.target.name, why);
        }
    }
}

/// The kind of a packet from another node.
#[derive(Clone, Copy)]
enum FrameKind {
    Response,
    Part(Part),
    Credit(u32),
    /// The node says who it is.
    Hello {
        is_meant: bool,
    },
}

/// The key and kind of a packet that is not a usual response in our own format.
fn read_head(frame: &[u8], calls: &InFlight, target: &Target) -> (Option<u64>, FrameKind) {
    if let Some((key, part, _)) = parse_raw_part(frame, Side::Callee).or_else(|| parse_part(frame, Side::Callee)) {
        return (Some(key), FrameKind::Part(part));
    }
    let (frame, _attached) = split_attachment(frame);
    if let Some(parts) = response_parts(frame) {
        return (Some(parts.key), FrameKind::Response);
    }
    match Packet::parse(frame) {
        Ok(packet) if packet.uri() == HELLO_URI => (None, FrameKind::Hello { is_meant: target.is_meant(&packet) }),
        Ok(packet) => {
            let part = Part::from_packet(&packet).map(FrameKind::Part);
            let kind = part.or_else(|| read_credit(&packet).map(FrameKind::Credit)).unwrap_or(FrameKind::Response);
            (packet.key.as_ref().and_then(protocol::Key::number), kind)
        }
        // A version 1 service answers this way to a method that it does not know.
        Err(_) if is_null(frame) => (calls.only_unanswered(), FrameKind::Response),
        Err(_) => (None, FrameKind::Response),
    }
}

fn is_null(frame: &[u8]) -> bool {
    frame.trim_ascii() == b"null"
}
