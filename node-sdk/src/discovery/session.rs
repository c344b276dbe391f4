//! One session with the Distributor: it registers, applies updates, and reports failed calls.

use std::future::{poll_fn, ready};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use net::{
    FrameReader, LogThrottle, MAX_ESCAPED_BYTES, Socket, TimeSlice, debug, error, escaped, info, set_options,
    sleep_until_opt, warn,
};
use protocol::{
    Advert, ListUpdate, PING_URI, Packet, Ping, Pong, REGISTRY_URI, RegisterOptions, Response, ResumePoint, Secret,
    UpdateOutcome, VISIBLE_URI, Version, Visibility, VisibilityTarget, is_copy_request, write_copy, write_leave,
    write_list_request, write_pong, write_registration, write_report,
};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::discovery::registration::{Identity, MAX_VISIBILITY_REQUESTS, VisibilityRequest};
use crate::discovery::{RECONNECT_PERIOD, cache};
use crate::routing::registry_view::RegistryView;

/// A Distributor in the same network answers a connect in well under this time, unless it is gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Most bytes of a list: twice the limit of our Distributor.
const MAX_LIST_BYTES: usize = 16 << 20;
/// Most bytes that wait for a Distributor that does not read: a copy of all entries, and more.
const MAX_UNSENT_BYTES: usize = 32 << 20;
/// A version 2 Distributor counts as gone after this time without a sign of life, or after three
/// times the ping period that it announced.
const SILENCE: Duration = Duration::from_secs(15);
/// How long to wait for a list that was requested before requesting it again.
const ASK_AGAIN: Duration = Duration::from_secs(3);
/// Pause between two reports of failed calls.
const REPORT_PERIOD: Duration = Duration::from_secs(1);
/// Pause between two writes of the cache file.
const CACHE_PERIOD: Duration = Duration::from_secs(5);
/// How often attempts that fail for the same reason are logged.
const LOG_PERIOD: Duration = Duration::from_secs(30);
/// The reason of a rejection when the instance id does not belong to the secret; and the pause
/// before the next attempt.
const NOT_YOURS: &str = "not_yours";
const NOT_YOURS_AGAIN: Duration = Duration::from_secs(10);

pub(super) struct RegistryClient {
    pub(super) identity: Identity,
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
}

/// The state of one connection to the Distributor.
struct RegistrySession<'a> {
    stream: &'a Socket,
    /// Bytes that the socket has not taken yet.
    unsent: BytesMut,
    /// The Distributor has sent a version 2 packet.
    is_v2: bool,
    /// When the Distributor counts as gone, unless a packet arrives.
    silent_at: Option<Instant>,
    silence: Duration,
    list_requested_at: Option<Instant>,
    /// When to register again after a rejection.
    register_at: Option<Instant>,
    report_at: Instant,
    bad: LogThrottle,
    /// A packet has arrived. A process that accepts connections need not be a working Distributor.
    has_told: bool,
}

impl RegistryClient {
    /// Makes one session after another until `stop` is cancelled.
    pub(super) async fn run(&mut self, stop: CancellationToken) {
        let mut failures = LogThrottle::new(LOG_PERIOD);
        let mut losses = LogThrottle::default();
        // The log says last that there is no connection.
        let mut told_lost = true;
        while !stop.is_cancelled() {
            let connecting = tokio::select! {
                () = stop.cancelled() => return,
                connecting = timeout(CONNECT_TIMEOUT, self.identity.network.connect(&self.address)) => connecting,
            };
            let wait = match connecting {
                Ok(Ok(stream)) => {
                    failures = LogThrottle::new(LOG_PERIOD);
                    if told_lost {
                        info!(distributor = %self.address, name = %self.identity.name, "connected");
                    }
                    let begun = Instant::now();
                    let (reason, has_told) = self.run_session(&stream, &stop).await;
                    self.view.disconnected();
                    if stop.is_cancelled() {
                        return;
                    }
                    let shown = losses.allow(Instant::now().into_std());
                    told_lost = shown.is_some();
                    if let Some(held_back) = shown {
                        warn!(distributor = %self.address, reason, held_back, "connection to the Distributor lost; the known nodes stay in use");
                    }
                    // All nodes lost the Distributor at this moment, so they return one after the
                    // other, spread over one period. The first returns at once, unless sessions end
                    // as soon as they begin.
                    let has_worked = has_told && begun.elapsed() >= RECONNECT_PERIOD;
                    let slot = if has_worked { self.view.rank(&self.id) } else { Some(0.5 + fastrand::f64()) };
                    RECONNECT_PERIOD.mul_f64(slot.unwrap_or_else(fastrand::f64))
                }
                failed => {
                    let error = match failed {
                        Ok(Err(error)) => error.to_string(),
                        _ => format!("no answer within {CONNECT_TIMEOUT:?}"),
                    };
                    if let Some(held_back) = failures.allow(Instant::now().into_std()) {
                        told_lost = true;
                        warn!(distributor = %self.address, error, held_back, "cannot reach the Distributor; trying every 3 s");
                    }
                    RECONNECT_PERIOD.mul_f64(0.9 + 0.2 * fastrand::f64())
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(wait) => {}
            }
        }
    }

    /// Registers and applies updates until the connection ends. Returns why it ended, and whether a
    /// packet came.
    async fn run_session(&mut self, stream: &Socket, stop: &CancellationToken) -> (&'static str, bool) {
        set_options(stream);
        let ends = stream.ends();
        self.view.reconnected(ends.and_then(|(here, there)| registry_host(here, there)));
        if let Some((here, there)) = ends {
            self.warn_of_loopback(here, there);
        }
        let now = Instant::now();
        let mut session = RegistrySession {
            stream,
            unsent: BytesMut::new(),
            is_v2: false,
            silent_at: None,
            silence: SILENCE,
            list_requested_at: None,
            register_at: None,
            report_at: now,
            bad: LogThrottle::default(),
            has_told: false,
        };
        self.adverts.mark_unchanged();
        self.register(&mut session);
        let reason = self.run_registered(&mut session, stop).await;
        (reason, session.has_told)
    }

    async fn run_registered(&mut self, session: &mut RegistrySession<'_>, stop: &CancellationToken) -> &'static str {
        let stream = session.stream;
        let mut reader = FrameReader::new(MAX_LIST_BYTES);
        let mut stored_at = Instant::now();
        let mut slice = TimeSlice::new();
        // The buffer may hold more packets.
        let mut more = false;
        loop {
            while more {
                match reader.next_frame() {
                    Ok(Some(frame)) => {
                        if !protocol::is_blank(&frame) {
                            self.handle_packet(session, &frame);
                        }
                        if slice.is_over_after(frame.len()) {
                            break;
                        }
                    }
                    Ok(None) => more = false,
                    Err(_too_large) => return "a list larger than 16 MiB",
                }
            }
            if let Err(reason) = session.write() {
                return reason;
            }
            // A Distributor that never pauses must not block other tasks, or keep this one from
            // stopping.
            let is_over = slice.is_over();
            if is_over {
                slice.yield_now().await;
            }
            let expiry = self.view.expire();
            let blocked = !session.unsent.is_empty();
            let report_at = (session.is_v2 && self.view.has_failed()).then_some(session.report_at);
            let store_at = (self.identity.cache.is_some() && self.view.is_unsaved()).then(|| stored_at + CACHE_PERIOD);
            tokio::select! {
                // Packets that came while the process was stopped are read before any timeout is
                // checked.
                biased;
                () = ready(()), if more && !is_over => {}
                readable = stream.readable(), if !more && !is_over => match readable.and_then(|()| reader.fill(stream)) {
                    Ok(true) => {
                        session.silent_at = session.is_v2.then(|| Instant::now() + session.silence);
                        more = true;
                    }
                    Ok(false) => return "closed by the Distributor",
                    Err(_broken) => return "broken",
                },
                () = stop.cancelled() => {
                    if session.is_v2 {
                        write_leave(&mut session.unsent);
                        // If the socket does not take the packet, the end of the connection tells
                        // the same.
                        let _ = session.write();
                    }
                    self.store().await;
                    return "left";
                }
                _ = stream.writable(), if blocked => {}
                Ok(()) = self.adverts.changed() => self.register(session),
                Some(request) = self.requested.recv(), if self.waiting.len() < MAX_VISIBILITY_REQUESTS => {
                    self.waiting.push(request);
                    self.register(session);
                }
                () = sleep_until_opt(expiry) => {}
                () = sleep_until_opt(session.register_at) => {
                    session.register_at = None;
                    self.register(session);
                }
                () = sleep_until_opt(report_at) => {
                    session.report_at = Instant::now() + REPORT_PERIOD;
                    write_report(&mut session.unsent, &self.view.drain_failed());
                }
                () = sleep_until_opt(store_at) => {
                    self.store().await;
                    stored_at = Instant::now();
                }
                // The other branches run once in a time slice, although there is something to read.
                () = ready(()), if is_over => {}
                () = sleep_until_opt(session.silent_at) => return "no sign of life",
                () = poll_fn(|_| { slice.pause(); Poll::Pending }) => {}
            }
            slice.resume();
        }
    }

    fn register(&mut self, session: &mut RegistrySession<'_>) {
        let Identity { name, port, routes, interests, .. } = &self.identity;
        self.waiting.retain(|request| !request.answer.is_closed());
        // One target for all requests: the highest percentage, and the longest time.
        let percent = self.waiting.iter().map(|request| request.target.percent).max();
        let within = self.waiting.iter().map(|request| request.target.within).max();
        let visible = percent.zip(within).map(|(percent, within)| VisibilityTarget { percent, within });
        let Pong { revision, digest } = self.pong();
        let have = revision.map(|revision| ResumePoint { revision, digest });
        let loopback = self.identity.listen.is_some_and(|listen| listen.is_loopback());
        let options = RegisterOptions {
            resume: have,
            interests: interests.clone(),
            visibility: visible,
            secret: self.secret.clone(),
            loopback,
        };
        let advert = self.adverts.borrow_and_update().clone();
        write_registration(&mut session.unsent, name, *port, routes, &advert, &options);
    }

    fn handle_packet(&mut self, session: &mut RegistrySession<'_>, frame: &[u8]) {
        let packet = match Packet::parse(frame) {
            Ok(packet) => packet,
            Err(error) => return session.complain(&error.to_string()),
        };
        session.is_v2 |= packet.version() == Version::V2;
        session.has_told = true;
        let now = Instant::now();
        match (packet.uri(), packet.method()) {
            (REGISTRY_URI, "GET" | "PATCH") if is_copy_request(&packet) => {
                self.view.with_replica(|replica| {
                    if let Some(revision) = replica.revision() {
                        write_copy(&mut session.unsent, revision, replica.digest(), replica.entries());
                    }
                });
            }
            (REGISTRY_URI, "GET" | "PATCH") => {
                let answer = Response::from_packet(&packet);
                if packet.version() == Version::V2 && answer.reason.is_some() {
                    return self.handle_rejection(session, &answer);
                }
                let update = match ListUpdate::parse(&packet) {
                    Ok(update) => update,
                    Err(error) => return session.complain(&error.to_string()),
                };
                let stamp = match &update {
                    ListUpdate::Snapshot(snapshot) => snapshot.header,
                    ListUpdate::Delta(delta) => Some(delta.header),
                };
                let outcome = self.view.apply_update(&update);
                debug!(?outcome, ?stamp, "news");
                match outcome {
                    UpdateOutcome::Changed | UpdateOutcome::Same => session.list_requested_at = None,
                    UpdateOutcome::Stale => {}
                    UpdateOutcome::Gap => session.request_list(now),
                }
                if stamp.is_some_and(|stamp| stamp.ack) {
                    write_pong(&mut session.unsent, self.pong());
                }
            }
            (PING_URI, _) => {
                let ping = Ping::from_packet(&packet);
                session.silence = SILENCE.max(Duration::from_millis(ping.every).saturating_mul(3));
                session.silent_at = Some(now + session.silence);
                write_pong(&mut session.unsent, self.pong());
                let drifted = self.view.with_replica(|replica| {
                    ping.revision == replica.revision() && ping.digest.is_some_and(|digest| digest != replica.digest())
                });
                if drifted && self.identity.interests.is_none() {
                    session.request_list(now);
                }
            }
            (VISIBLE_URI, _) => {
                let params = packet.params.map_or("null", |params| params.get());
                if let Ok(visibility) = serde_json::from_str::<Visibility>(params) {
                    for request in self.waiting.drain(..) {
                        // The requester may have gone.
                        let _ = request.answer.send(visibility.clone());
                    }
                }
            }
            _unknown => {}
        }
    }

    fn pong(&self) -> Pong {
        let all = self.identity.interests.is_none();
        self.view.with_replica(|replica| replica.pong(all))
    }

    /// Warns when the Distributor lists an address that other machines cannot reach.
    fn warn_of_loopback(&mut self, here: IpAddr, there: IpAddr) {
        let Some(listen) = self.identity.listen else { return };
        if !listen.is_loopback() || here.is_loopback() || self.warned.replace(there) == Some(there) {
            return;
        }
        let (name, port) = (&self.identity.name, self.identity.port);
        let (listens, shown) = (SocketAddr::new(listen, port), SocketAddr::new(here, port));
        warn!(%name, distributor = %self.address, "no other machine can call this node: it listens on {listens}, and others are told {shown}; have it listen on {here} or on 0.0.0.0");
    }

    fn handle_rejection(&self, session: &mut RegistrySession<'_>, answer: &Response<'_>) {
        let (reason, message) = (answer.reason.as_deref().unwrap_or_default(), answer.message.as_deref());
        if answer.status >= 400 {
            // A random pause, or all rejected nodes return together.
            let after =
                answer.retry_after.map(|after| after.max(Duration::from_millis(50)).mul_f64(1.0 + fastrand::f64()));
            session.register_at = after.map(|after| Instant::now() + after);
        }
        if reason == NOT_YOURS {
            session.register_at = Some(Instant::now() + NOT_YOURS_AGAIN);
            if let Some(held_back) = session.bad.allow(Instant::now().into_std()) {
                error!(
                    name = %self.identity.name, id = %self.id, held_back,
                    "the Distributor does not list this node: it says that the instance id belongs to another process. Start this one anew, \
                     which makes a new id; if that does not help, something on the way to {} changes packets", self.address
                );
            }
            return;
        }
        if let Some(held_back) = session.bad.allow(Instant::now().into_std()) {
            let (name, message) = (&self.identity.name, message.unwrap_or_default());
            let retry_after_s = answer.retry_after.map(|after| after.as_secs_f32());
            let (reason, message) = (escaped(reason, MAX_ESCAPED_BYTES), escaped(message, 2 * MAX_ESCAPED_BYTES));
            warn!(%name, ?reason, retry_after_s, held_back, "the Distributor says: {message}");
        }
    }

    /// Writes the cache file, if there is one.
    async fn store(&self) {
        let Some(path) = self.identity.cache.clone() else { return };
        let Some(text) = self.view.cache_text(cache::text) else { return };
        let shown = path.clone();
        let stored = tokio::task::spawn_blocking(move || cache::store(&path, &text)).await;
        if let Err(error) = stored.unwrap_or_else(|panicked| Err(std::io::Error::other(panicked))) {
            warn!(%error, path = %shown.display(), "cannot write the cache of peers");
        }
    }
}

/// The address of the Distributor, if it is on another machine: the two ends of the connection
/// tell.
fn registry_host(here: IpAddr, there: IpAddr) -> Option<IpAddr> {
    (!there.is_loopback() && here != there).then_some(there)
}

impl RegistrySession<'_> {
    /// Writes as much as the socket takes.
    fn write(&mut self) -> Result<(), &'static str> {
        // A version 1 Distributor crashes on a packet in two pieces. A new socket takes a
        // registration as a whole.
        while !self.unsent.is_empty() {
            match self.stream.try_write(&self.unsent) {
                Ok(bytes) => self.unsent.advance(bytes),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
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
        if self.list_requested_at.is_none_or(|asked| asked + ASK_AGAIN <= now) {
            self.list_requested_at = Some(now);
            debug!("an update does not fit the known list; requesting the whole list");
            write_list_request(&mut self.unsent, 1);
        }
    }

    fn complain(&mut self, error: &str) {
        if let Some(held_back) = self.bad.allow(Instant::now().into_std()) {
            let error = escaped(error, MAX_ESCAPED_BYTES);
            warn!(?error, held_back, "ignored a packet from the Distributor; the last list stays in use");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distributor_is_on_another_machine_unless_its_connection_begins_where_it_ends() {
        #[track_caller]
        fn check(here: &str, there: &str, expected: Option<&str>) {
            let [here, there] = [here, there].map(|text| text.parse().unwrap());
            assert_eq!(registry_host(here, there), expected.map(|text| text.parse().unwrap()));
        }
        check("127.0.0.1", "127.0.0.1", None);
        check("::1", "::1", None);
        check("127.0.0.1", "127.0.0.53", None);
        check("10.0.0.2", "10.0.0.9", Some("10.0.0.9"));
        check("fd00::2", "fd00::9", Some("fd00::9"));
        // By this machine's own address in the network.
        check("10.0.0.2", "10.0.0.2", None);
    }
}
