//! One session with the Distributor: it registers, applies updates, and reports failed calls.
//!
//! It must not decide what an update means for calls: it hands each to the registry view.

mod notices;
mod packets;
mod questions;

use std::future::{poll_fn, ready};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use net::{
    FrameReader, KeyedThrottle, LogThrottle, Socket, TimeSlice, debug, error, set_socket_options, sleep_until_opt, warn,
};
use protocol::{
    Advert, HostPort, Pong, RegisterOptions, ResumePoint, Secret, VisibilityTarget, write_leave, write_list_request,
    write_registration, write_report,
};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::discovery::foreign_server::{ForeignServerBackoff, by_first_bytes};
use crate::discovery::own_address::registry_host;
use crate::discovery::registration::{MAX_VISIBILITY_REQUESTS, NodeDescription, VisibilityRequest};
use crate::discovery::{RECONNECT_PERIOD, cache};
use crate::routing::registry_view::RegistryView;

/// A Distributor in the same network answers a connect in well under this time, unless it is gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum bytes of a list: twice the limit of our Distributor.
const MAX_LIST_BYTES: usize = 16 << 20;
/// Maximum bytes that wait for a Distributor that does not read: a copy of all entries, and more.
const MAX_UNSENT_BYTES: usize = 32 << 20;
/// A version 2 Distributor counts as gone after this time without a sign of life, or after three
/// times the ping period that it announced.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long to wait for a list that was requested before requesting it again.
const LIST_RETRY_INTERVAL: Duration = Duration::from_secs(3);
/// Pause between two reports of failed calls.
const REPORT_PERIOD: Duration = Duration::from_secs(1);
/// Pause between two writes of the cache file.
const CACHE_PERIOD: Duration = Duration::from_secs(5);
/// How long the Distributor may take to read that this node leaves.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(300);
/// How often attempts that fail for the same reason are logged.
const LOG_PERIOD: Duration = Duration::from_secs(30);

pub(super) struct RegistryClient {
    pub(super) description: NodeDescription,
    pub(super) address: String,
    pub(super) id: String,
    /// The secret that `id` is made of. Only the Distributor is told.
    pub(super) secret: Option<Secret>,
    pub(super) view: Arc<RegistryView>,
    pub(super) adverts: watch::Receiver<Advert>,
    pub(super) requested: mpsc::Receiver<VisibilityRequest>,
    /// Visibility requests that the Distributor has received.
    pub(super) waiting: Vec<VisibilityRequest>,
    /// The Distributor for which the log has said that its nodes cannot call this one.
    pub(super) warned: Option<IpAddr>,
    /// The address that this node is listed at and does not have, as the log has said.
    pub(super) translated: Option<IpAddr>,
    /// Whether the last log line says that there is no connection.
    pub(super) has_logged_loss: bool,
    /// Whether the log has said that the Distributor is of version 1, which does not know internal
    /// routes.
    pub(super) has_logged_old_distributor: bool,
}

/// How a session ended.
#[derive(Clone, Copy)]
enum SessionEnd {
    /// The connection was lost, for this reason.
    Lost(&'static str),
    /// The server at that address is not a Distributor.
    ForeignServer(&'static str),
}

/// What lasts from one attempt to connect to the next.
struct ReconnectState {
    /// Log lines about attempts that failed, sessions that ended, and servers of another kind.
    failures: LogThrottle,
    losses: LogThrottle,
    foreign_servers: LogThrottle,
    /// The pauses between attempts to connect to a server of another kind.
    backoff: ForeignServerBackoff,
}

impl Default for ReconnectState {
    fn default() -> Self {
        Self {
            failures: LogThrottle::new(LOG_PERIOD),
            losses: LogThrottle::default(),
            foreign_servers: LogThrottle::new(LOG_PERIOD),
            backoff: ForeignServerBackoff::default(),
        }
    }
}

/// The state of one connection to the Distributor.
struct RegistrySession<'a> {
    socket: &'a Socket,
    /// Bytes that the socket has not taken yet.
    unsent: BytesMut,
    /// Whether the Distributor has sent a version 2 packet.
    is_v2: bool,
    /// When the Distributor counts as gone, unless a packet arrives.
    silent_at: Option<Instant>,
    silence: Duration,
    list_requested_at: Option<Instant>,
    /// When to register again after a rejection.
    register_at: Option<Instant>,
    report_at: Instant,
    bad: KeyedThrottle,
    /// Whether a packet has arrived. A process that accepts connections need not be a working
    /// Distributor.
    has_heard_distributor: bool,
    /// The answering server is not a Distributor, but of this kind.
    foreign_server: Option<&'static str>,
    /// This end of the connection, until it is known where this node is listed.
    here: Option<IpAddr>,
}

impl RegistryClient {
    /// Makes one session after another until `stop` is cancelled.
    pub(super) async fn run(&mut self, stop: CancellationToken) {
        let mut retries = ReconnectState::default();
        while !stop.is_cancelled() {
            let connecting = tokio::select! {
                () = stop.cancelled() => return,
                connecting = timeout(CONNECT_TIMEOUT, self.connect()) => connecting,
            };
            let pause = match connecting {
                Ok(Ok(socket)) => {
                    retries.failures = LogThrottle::new(LOG_PERIOD);
                    let started = Instant::now();
                    let (end, has_heard_distributor) = self.run_session(&socket, &stop).await;
                    self.view.record_disconnect();
                    if stop.is_cancelled() {
                        return;
                    }
                    // This process may be gone before there is another session.
                    self.store().await;
                    if has_heard_distributor {
                        retries.backoff.reset();
                    }
                    let has_worked = has_heard_distributor && started.elapsed() >= RECONNECT_PERIOD;
                    self.pause_after_session(end, has_worked, &mut retries)
                }
                Ok(Err(error)) => self.pause_after_failure(&error.to_string(), &mut retries),
                Err(_late) => self.pause_after_failure(&format!("no answer within {CONNECT_TIMEOUT:?}"), &mut retries),
            };
            self.pause(pause, &stop).await;
        }
    }

    /// Logs that a session has ended, and returns the pause before the next one.
    fn pause_after_session(&mut self, end: SessionEnd, has_worked: bool, retries: &mut ReconnectState) -> Duration {
        let now = Instant::now().into_std();
        let reason = match end {
            SessionEnd::Lost(reason) => reason,
            SessionEnd::ForeignServer(what) => {
                let pause = retries.backoff.pause(fastrand::f64());
                if let Some(suppressed) = retries.foreign_servers.allow(now) {
                    self.has_logged_loss = true;
                    error!(
                        distributor = %self.address, name = %self.description.name, suppressed,
                        "the server at this address is not a Distributor: {what}; check the address; trying again in {:.0} s",
                        pause.as_secs_f32()
                    );
                }
                return pause;
            }
        };
        if let Some(suppressed) = retries.losses.allow(now) {
            self.has_logged_loss = true;
            warn!(distributor = %self.address, reason, suppressed, "connection to the Distributor lost; the known nodes stay in use");
        }
        // All nodes lost the Distributor at this moment, so they return one after the other, spread
        // over one period. The first returns at once, unless sessions end as soon as they begin.
        let slot = if has_worked { self.view.rank(&self.id) } else { Some(0.5 + fastrand::f64()) };
        RECONNECT_PERIOD.mul_f64(slot.unwrap_or_else(fastrand::f64))
    }

    /// Logs that no connection was made, and returns the pause before the next attempt.
    fn pause_after_failure(&mut self, error: &str, retries: &mut ReconnectState) -> Duration {
        if let Some(suppressed) = retries.failures.allow(Instant::now().into_std()) {
            self.has_logged_loss = true;
            let at = &self.address;
            warn!(error, suppressed, "cannot connect to the Distributor at {at}; trying every 3 s");
        }
        RECONNECT_PERIOD.mul_f64(0.9 + 0.2 * fastrand::f64())
    }

    async fn pause(&self, pause: Duration, stop: &CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = sleep(pause) => {}
        }
    }

    /// Connects to the first address of the Distributor's host that answers. A name is looked up
    /// anew each time.
    async fn connect(&self) -> io::Result<Socket> {
        let address: HostPort = self.address.parse().map_err(io::Error::other)?;
        self.description.network.connect(&address, |_| false).await
    }

    /// Registers and applies updates until the connection ends. Returns why it ended, and whether a
    /// packet of a Distributor came.
    async fn run_session(&mut self, socket: &Socket, stop: &CancellationToken) -> (SessionEnd, bool) {
        set_socket_options(socket);
        let ends = socket.ends();
        self.view.record_reconnect(ends.and_then(|(here, there)| registry_host(here, there)));
        if let Some((here, there)) = ends {
            self.warn_of_reach(here, there);
        }
        let now = Instant::now();
        let mut session = RegistrySession {
            socket,
            unsent: BytesMut::new(),
            is_v2: false,
            // Any kind of server may accept a connection and stay silent.
            silent_at: Some(now + SILENCE_TIMEOUT),
            silence: SILENCE_TIMEOUT,
            list_requested_at: None,
            register_at: None,
            report_at: now,
            bad: KeyedThrottle::default(),
            has_heard_distributor: false,
            foreign_server: None,
            here: ends.map(|(here, _)| here),
        };
        self.adverts.mark_unchanged();
        self.register(&mut session);
        let end = self.run_registered(&mut session, stop).await;
        (end, session.has_heard_distributor)
    }

    async fn run_registered(&mut self, session: &mut RegistrySession<'_>, stop: &CancellationToken) -> SessionEnd {
        let socket = session.socket;
        let mut reader = FrameReader::new(MAX_LIST_BYTES);
        // A Distributor of version 1 does not escape the `¶` in nodes' names.
        reader.join_pieces(true);
        let mut stored_at = Instant::now();
        let mut slice = TimeSlice::new();
        // The buffer may hold more packets.
        let mut more = false;
        loop {
            if more {
                more = match self.read_packets(session, &mut reader, &mut slice) {
                    Ok(more) => more,
                    Err(end) => return end,
                };
            }
            if let Some(what) = session.foreign_server {
                return SessionEnd::ForeignServer(what);
            }
            let question_at = self.send_question(session);
            if let Err(reason) = session.write() {
                return SessionEnd::Lost(reason);
            }
            // A Distributor that never pauses must not block other tasks, or keep this one from
            // stopping.
            let is_over = slice.is_over();
            if is_over {
                slice.yield_now().await;
            }
            let expiry = self.view.expire();
            let blocked = !session.unsent.is_empty();
            let report_at = (session.is_v2 && self.view.has_report()).then_some(session.report_at);
            let store_at =
                (self.description.cache.is_some() && self.view.is_unsaved()).then(|| stored_at + CACHE_PERIOD);
            tokio::select! {
                // Packets that came while the process was stopped are read before any timeout is
                // checked.
                biased;
                () = ready(()), if more && !is_over => {}
                readable = socket.readable(), if !more && !is_over => {
                    match readable.and_then(|()| reader.fill(socket)) {
                        Ok(true) => session.record_bytes(reader.buffered()),
                        Ok(false) => return SessionEnd::Lost("closed by the Distributor"),
                        Err(_broken) => return SessionEnd::Lost("broken"),
                    }
                    more = true;
                }
                () = stop.cancelled() => {
                    self.leave(session).await;
                    return SessionEnd::Lost("left");
                }
                _ = socket.writable(), if blocked => {}
                Ok(()) = self.adverts.changed() => self.register(session),
                Some(request) = self.requested.recv(), if self.waiting.len() < MAX_VISIBILITY_REQUESTS => {
                    self.waiting.push(request);
                    self.register(session);
                }
                () = self.view.needs().wait_asked() => {}
                () = sleep_until_opt(expiry.into_iter().chain(question_at).min()) => {}
                () = sleep_until_opt(session.register_at) => {
                    session.register_at = None;
                    self.register(session);
                }
                () = sleep_until_opt(report_at) => {
                    session.report_at = Instant::now() + REPORT_PERIOD;
                    write_report(&mut session.unsent, &self.view.drain_report());
                }
                () = sleep_until_opt(store_at) => {
                    self.store().await;
                    stored_at = Instant::now();
                }
                // The other branches run once in a time slice, although there is something to read.
                () = ready(()), if is_over => {}
                () = sleep_until_opt(session.silent_at) => return SessionEnd::Lost("no sign of life"),
                () = poll_fn(|_| { slice.pause(); Poll::Pending }) => {}
            }
            slice.resume();
        }
    }

    /// Handles packets that have been read, until the time slice is over. Returns whether there may
    /// be more.
    fn read_packets(
        &mut self,
        session: &mut RegistrySession<'_>,
        reader: &mut FrameReader,
        slice: &mut TimeSlice,
    ) -> Result<bool, SessionEnd> {
        loop {
            let frame = reader.next_frame().map_err(|_too_large| SessionEnd::Lost("a list larger than 16 MiB"))?;
            let Some(frame) = frame else { return Ok(false) };
            if !protocol::is_blank(&frame) {
                self.handle_packet(session, &frame);
                reader.join_pieces(!session.is_v2);
            }
            if slice.is_over_after(frame.len()) {
                return Ok(true);
            }
        }
    }

    /// Tells the Distributor that this node leaves, and writes the cache file.
    async fn leave(&mut self, session: &mut RegistrySession<'_>) {
        if session.is_v2 {
            write_leave(&mut session.unsent);
            // If the socket does not take the packet, the end of the connection tells the same.
            let _ = session.write();
        }
        session.socket.close_in_order(LEAVE_TIMEOUT).await;
        self.store().await;
    }

    fn register(&mut self, session: &mut RegistrySession<'_>) {
        let NodeDescription { name, port, routes, interests, .. } = &self.description;
        self.waiting.retain(|request| !request.answer.is_closed());
        // One target for all requests: the highest percentage, and the longest time.
        let percent = self.waiting.iter().map(|request| request.target.percent).max();
        let within = self.waiting.iter().map(|request| request.target.within).max();
        let visible = percent.zip(within).map(|(percent, within)| VisibilityTarget { percent, within });
        let Pong { revision, digest } = self.pong();
        // Changes to the whole list cannot be applied to a part.
        let have = revision.filter(|_| !self.view.needs().is_partial());
        let have = have.map(|revision| ResumePoint { revision, digest });
        let (uses, part) = self.uses_to_register();
        let loopback = self.description.advert.advertise.is_none()
            && self.description.listen.is_some_and(|listen| listen.is_loopback());
        let options = RegisterOptions {
            resume: have,
            interests: interests.clone(),
            uses,
            part,
            visibility: visible,
            secret: self.secret.clone(),
            loopback,
            packed: true,
        };
        let advert = self.adverts.borrow_and_update().clone();
        write_registration(&mut session.unsent, name, *port, routes, &advert, &options);
    }

    fn pong(&self) -> Pong {
        let all = self.description.interests.is_none() && !self.view.needs().is_partial();
        self.view.with_replica(|replica| replica.pong(all))
    }

    /// Writes the cache file, if there is one.
    async fn store(&self) {
        let Some(path) = self.description.cache.clone() else { return };
        let (uses, is_partial) = (self.view.used_urls(), self.view.needs().is_partial());
        let Some(text) = self.view.cache_text(|replica| cache::text(replica, uses, is_partial)) else { return };
        let shown = path.clone();
        let stored = tokio::task::spawn_blocking(move || cache::store(&path, &text)).await;
        if let Err(error) = stored.unwrap_or_else(|panicked| Err(io::Error::other(panicked))) {
            warn!(%error, path = %shown.display(), "the cache file is not written: the next start has to wait for the Distributor");
        }
    }
}

impl RegistrySession<'_> {
    /// Records that the server has sent something, which is a sign of life. Its first bytes may
    /// show that it is not a Distributor.
    fn record_bytes(&mut self, buffered: &[u8]) {
        if !self.has_heard_distributor {
            self.foreign_server = by_first_bytes(buffered);
        }
        self.silent_at = self.is_v2.then(|| Instant::now() + self.silence);
    }

    /// Writes as much as the socket takes.
    fn write(&mut self) -> Result<(), &'static str> {
        // A version 1 Distributor crashes on a packet in two pieces. A new socket takes a
        // registration as a whole.
        while !self.unsent.is_empty() {
            match self.socket.try_write(&self.unsent) {
                Ok(bytes) => self.unsent.advance(bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_broken) => return Err("broken"),
            }
        }
        if self.unsent.is_empty() {
            self.unsent = BytesMut::new();
        }
        if self.unsent.len() > MAX_UNSENT_BYTES { Err("it does not read") } else { Ok(()) }
    }

    /// Requests the list, unless that has just been done.
    fn request_list(&mut self, now: Instant) {
        if self.list_requested_at.is_none_or(|asked| asked + LIST_RETRY_INTERVAL <= now) {
            self.list_requested_at = Some(now);
            debug!("an update does not fit the known list; requesting the whole list");
            write_list_request(&mut self.unsent, 1);
        }
    }
}
