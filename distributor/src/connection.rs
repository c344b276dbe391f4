//! One connection: reads packets, writes what its session is owed, and ends when either fails.

use std::net::Shutdown;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use daemon::{FrameReader, Look, at};
use protocol::{Unread, write_refusal};
use socket2::SockRef;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::intake::{Complaint, Counts, Intake, Intent, guess_protocol};
use crate::membership::{Attendance, Flow, Writer};
use crate::outbox::Reply;

/// Packets of one peer that are handled before other tasks have their turn.
const FRAMES_PER_TURN: u32 = 64;
/// After a peer was told why it is cut, what it still sends is read for so long and so much: closing with unread bytes
/// would reset the connection and take the message away.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 4 << 20;
/// Bytes of that taken at a time.
const LINGER_READ_BYTES: usize = 16 * 1024;

/// Why a connection ended.
enum End {
    /// The peer closed, or broke, its side.
    Closed,
    /// We are stopping.
    Stopping,
    /// The peer is told what is wrong, then cut.
    Cut(Complaint),
    /// The peer takes nothing of what it is told.
    Stalled,
}

/// Serves one connection until it ends. Dropping the future ends it as well; both leave the membership.
pub(crate) async fn run(attendance: Attendance, stop: CancellationToken) {
    let session = &attendance.session;
    let max_frame_bytes = attendance.membership().config.max_frame_bytes;
    let mut reader = Reader { frames: FrameReader::new(max_frame_bytes), intake: Intake::new(), read_before: false };
    let end = serve(&attendance, &mut reader, &stop).await;
    // The list must not wait for the farewell.
    attendance.unregister();
    let (peer, conn) = (session.peer, session.id.0);
    let Counts { packets, ignored, blank, strikes } = reader.intake.counts;
    match end {
        End::Closed | End::Stopping => debug!(conn, %peer, packets, ignored, blank, strikes, "connection closed"),
        End::Stalled => {
            let seconds = attendance.membership().config.write_timeout.as_secs_f32();
            warn!(conn, %peer, packets, "cut: it has taken nothing of what it was sent for {seconds} s");
        }
        End::Cut(Complaint { status, reason, message }) => {
            info!(conn, %peer, packets, ignored, blank, strikes, reason, "cut: {message}");
            if !session.outbox().is_mid_packet() {
                farewell(&attendance, status, reason, &message).await;
            }
        }
    }
}

/// The reading half's state.
struct Reader {
    frames: FrameReader,
    intake: Intake,
    read_before: bool,
}

async fn serve(attendance: &Attendance, reader: &mut Reader, stop: &CancellationToken) -> End {
    let session = &attendance.session;
    let config = &attendance.membership().config;
    let mut look = Look::default();
    // Since when an old peer has read nothing of what is before it.
    let mut unread_since = None;
    loop {
        if session.is_superseded.load(Ordering::Acquire) {
            let message = "the same instance has registered on a newer connection";
            return End::Cut(Complaint::new(409, "superseded", message));
        }
        let (flow, _) = session.flush(|| attendance.membership().lists(), Writer::Connection);
        // A peer that asks faster than it reads is not read from: one reply at a time.
        let mut turn = 0;
        while !session.outbox().owes_reply() {
            match reader.next(attendance) {
                Ok(true) => turn += 1,
                Ok(false) => break,
                Err(end) => return end,
            }
            if turn == FRAMES_PER_TURN {
                tokio::task::yield_now().await;
                turn = 0;
            }
        }
        let listening = !session.outbox().owes_reply();
        if !listening && flow == Flow::Done {
            continue;
        }
        let frame_deadline = reader.frames.deadline(config.frame_timeout);
        let (writable, write_deadline, paced) = match flow {
            Flow::Done => {
                look.done();
                unread_since = None;
                (false, None, None)
            }
            Flow::Stalled(since) => (true, Some(Instant::from_std(since) + config.write_timeout), None),
            Flow::Paced(Unread::Until(time)) => (false, None, Some(Unread::Until(time))),
            Flow::Paced(Unread::Look) => {
                let since = *unread_since.get_or_insert_with(Instant::now);
                (false, Some(since + config.write_timeout), Some(Unread::Look))
            }
            Flow::Broken => return End::Closed,
        };
        tokio::select! {
            () = stop.cancelled() => return End::Stopping,
            readable = session.stream.readable(), if listening => match readable.and_then(|()| reader.frames.fill(&session.stream)) {
                Ok(true) => {}
                Ok(false) | Err(_) => return End::Closed,
            },
            _ = session.stream.writable(), if writable => {}
            () = session.unfinished.notified() => {}
            goes_on = read_enough(attendance, paced, &mut look) => if goes_on { unread_since = None },
            () = at(frame_deadline) => {
                return End::Cut(Complaint::new(408, "frame_timeout", "a packet took too long from its first byte to its last"));
            }
            () = at(write_deadline) => return End::Stalled,
        }
    }
}

/// Waits for what an old peer's window waits for, for ever when it waits for nothing. Returns whether the peer reads.
async fn read_enough(attendance: &Attendance, unread: Option<Unread>, look: &mut Look) -> bool {
    let (session, membership) = (&attendance.session, attendance.membership());
    match unread {
        None => std::future::pending().await,
        Some(Unread::Until(time)) => {
            sleep_until(Instant::from_std(time)).await;
            true
        }
        Some(Unread::Look) => {
            let written = session.outbox().written();
            match look.unread(&membership.local_queues, &session.stream, written).await {
                (written, Some(unread)) => session.outbox().settle(written, unread),
                (_, None) => {
                    session.outbox().guess(membership.config.legacy_read_time);
                    true
                }
            }
        }
    }
}

impl Reader {
    /// Handles one packet; `false` when more bytes are needed first.
    fn next(&mut self, attendance: &Attendance) -> Result<bool, End> {
        let config = &attendance.membership().config;
        let session = &attendance.session;
        if !self.read_before && !self.frames.pending().is_empty() {
            if let Some(other) = guess_protocol(self.frames.pending()) {
                let message = format!("this is the registry port for packets; the peer looks like {other}");
                return Err(End::Cut(Complaint::new(400, "wrong_protocol", message)));
            }
            // The longest sign: by then the guess is as good as it gets.
            self.read_before = self.frames.pending().len() >= 12;
        }
        let frame = match self.frames.next_frame() {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(false),
            Err(too_large) => return Err(End::Cut(Complaint::new(413, "frame_too_large", too_large.to_string()))),
        };
        self.read_before = true;
        match self.intake.take(Instant::now().into_std(), &frame, config) {
            Intent::Ignore => {}
            Intent::Overlook(complaint) => attendance.membership().warn_of_refusal(session.peer, &complaint),
            Intent::Register(registration) => attendance.register(&registration, self.intake.version()),
            Intent::Ask(key) => session.outbox().reply(Reply::List(key), self.intake.version()),
            Intent::Leave => attendance.unregister(),
            Intent::Refuse(key, complaint) => {
                let Complaint { status, reason, message } = complaint;
                debug!(conn = session.id.0, peer = %session.peer, reason, "refused: {message}");
                let mut out = BytesMut::new();
                write_refusal(&mut out, key.as_ref(), status, reason, &message);
                session.outbox().reply(Reply::Refusal(out.freeze()), self.intake.version());
            }
            Intent::Cut(complaint) => return Err(End::Cut(complaint)),
        }
        Ok(true)
    }
}

/// Says why, once and without waiting for a peer that does not read, and closes.
async fn farewell(attendance: &Attendance, status: u16, reason: &str, message: &str) {
    let stream = &attendance.session.stream;
    let mut out = BytesMut::new();
    write_refusal(&mut out, None, status, reason, message);
    if stream.try_write(&out).is_err() || SockRef::from(stream).shutdown(Shutdown::Write).is_err() {
        return;
    }
    let mut left = LINGER_BYTES;
    let mut scrap = vec![0; LINGER_READ_BYTES];
    let _ = timeout(LINGER, async {
        while left > 0 && stream.readable().await.is_ok() {
            match stream.try_read(&mut scrap) {
                Ok(0) => break,
                Ok(bytes) => left = left.saturating_sub(bytes),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
    })
    .await;
}
