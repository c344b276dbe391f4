//! One call: whom it goes to, what it is tried again for, and what its answer means.

use std::borrow::Cow;
use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::Bytes;
use protocol::{CallMeta, Packet, Part, Version, success_parts, write_request};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, Sleep, sleep, timeout_at};

use crate::balance::{Balance, PickOptions, Readiness};
use crate::client::response::{RawResponse, is_declined, read_result};
use crate::context::Context;
use crate::error::CallError;
use crate::handler::params;
use crate::peers::Peers;
use crate::routing::table::{Lookup, Provider};
use crate::scratch::with_scratch;
use crate::transport::connection::{OpenStream, PendingCall};
use crate::transport::in_flight::{CallDeadlines, CallFailure, StreamOptions};
use crate::transport::limits::DEFAULT_DEADLINE;
use crate::transport::write_queue::EnqueueError;

/// Whoever waits for longer than any clock can tell waits for so long.
const FOR_EVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// A call that is about to be made: set what differs from the defaults, then await it.
#[must_use = "a call is made when it is awaited"]
#[derive(Debug)]
pub struct Call<'a, T> {
    raw: RawCall<'a>,
    result: PhantomData<fn() -> T>,
}

impl<'a, T> Call<'a, T> {
    pub(crate) fn new(raw: RawCall<'a>) -> Self {
        Self { raw, result: PhantomData }
    }

    /// How long the whole call may take, further attempts included. 5 s unless set, and never longer than the call that is
    /// being handled may take.
    pub fn timeout(mut self, deadline: Duration) -> Self {
        self.raw = self.raw.timeout(deadline);
        self
    }

    /// Carrying it out twice does no harm: it may be tried again when it was lost on the way.
    pub fn idempotent(mut self) -> Self {
        self.raw.idempotent = true;
        self
    }

    /// When there is no answer after so long, the call is made a second time, to another provider; the first answer counts, and the
    /// other is taken back. For calls that must not wait for one slow node. Only what may be carried out twice is hedged:
    /// see [`idempotent`](Self::idempotent); and only as often as calls may be tried again, a fifth of all calls and ten a second.
    ///
    /// ```no_run
    /// # async fn example(peers: node_sdk::Peers) -> Result<(), node_sdk::CallError> {
    /// use std::time::Duration;
    ///
    /// let price: u32 = peers.call("GET/prices/7", &()).hedge(Duration::from_millis(20)).await?;
    /// # Ok(()) }
    /// ```
    pub fn hedge(mut self, after: Duration) -> Self {
        self.raw.hedge = Some(after);
        self
    }

    /// Calls with the same key go to the same provider, as long as that is there and has not much more to do than the others.
    ///
    /// ```no_run
    /// # async fn example(peers: node_sdk::Peers, user: &str) -> Result<(), node_sdk::CallError> {
    /// let cart: Vec<u64> = peers.call("GET/cart", &()).sticky_key(user).await?;
    /// # Ok(()) }
    /// ```
    pub fn sticky_key(mut self, key: &'a str) -> Self {
        self.raw = self.raw.sticky_key(key);
        self
    }

    /// Calls one instance, by its id, and no other.
    pub fn to_instance(mut self, instance: &'a str) -> Self {
        self.raw.pick.instance = Some(instance);
        self
    }

    /// How a provider is picked, if not as the node's builder says.
    pub fn balance(mut self, balance: Balance) -> Self {
        self.raw = self.raw.balance(balance);
        self
    }
}

impl<'a, T: DeserializeOwned> IntoFuture for Call<'a, T> {
    type Output = Result<T, CallError>;
    type IntoFuture = Calling<'a, T>;

    fn into_future(self) -> Calling<'a, T> {
        Calling { raw: self.raw, result: PhantomData }
    }
}

/// A call that is being made.
#[derive(Debug)]
pub struct Calling<'a, T> {
    raw: RawCall<'a>,
    result: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Future for Calling<'_, T> {
    type Output = Result<T, CallError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.raw)
            .poll(context)
            .map(|answer| read_result(&answer?).map_err(|error| error.into_call_error(|| self.raw.url())))
    }
}

/// A call whose answer is not read: see [`Peers::call_raw`].
#[must_use = "a call is made when it is awaited"]
#[derive(Debug)]
pub struct RawCall<'a> {
    peers: &'a Peers,
    method: &'a str,
    path: &'a str,
    arguments: CallArguments<'a>,
    timeout: Duration,
    /// Until the first attempt: when the call began, if the caller knows.
    started: Option<Instant>,
    pub(crate) idempotent: bool,
    one_way: bool,
    /// Its answer may be a stream, of which so many bytes may be sent ahead.
    window: Option<u32>,
    /// When there is no answer after so long, another provider is asked too.
    hedge: Option<Duration>,
    address: Option<SocketAddr>,
    /// Whoever makes it draws the conclusions.
    is_probe: bool,
    pub(crate) pick: PickOptions<'a>,
    progress: CallProgress,
}

/// What a call is made with.
#[derive(Clone, Copy)]
pub(crate) enum CallArguments<'a> {
    Value(&'a (dyn WriteJson + Sync)),
    /// JSON text.
    Text(&'a str),
}

/// How far a call has come.
#[derive(Debug, Default)]
struct CallProgress {
    /// Set with the first attempt.
    deadline: Option<Instant>,
    state: CallState,
    /// Who was tried, without success.
    tried: Vec<SocketAddr>,
    /// Who may have carried it out, and was lost.
    lost: Option<SocketAddr>,
    /// An answer that says that it was not carried out; given if nobody does better.
    declined: Option<Bytes>,
    full: bool,
    too_large: bool,
    /// The call that has become a stream.
    opened: Option<PendingCall>,
    hedge: HedgeState,
}

/// Asking a second provider.
#[derive(Debug, Default)]
enum HedgeState {
    /// Not begun to wait.
    #[default]
    Idle,
    /// On the heap: few calls are hedged.
    At(Pin<Box<Sleep>>),
    /// Another provider works on it too.
    Asked(PendingCall),
    /// Nobody else is asked.
    Done,
}

#[derive(Default)]
enum CallState {
    /// The next attempt is to be made.
    #[default]
    Due,
    Waiting(PendingCall),
    /// This node answers itself.
    Own(Pin<Box<dyn Future<Output = Option<Bytes>> + Send>>),
}

impl<'a> RawCall<'a> {
    pub(crate) fn new(peers: &'a Peers, method: &'a str, path: &'a str, arguments: CallArguments<'a>) -> Self {
        Self {
            peers,
            method,
            path,
            arguments,
            timeout: DEFAULT_DEADLINE,
            started: None,
            idempotent: is_idempotent(method),
            one_way: false,
            window: None,
            hedge: None,
            address: None,
            is_probe: false,
            pick: PickOptions { balance: peers.balance(), ..PickOptions::default() },
            progress: CallProgress::default(),
        }
    }

    /// As [`Call::timeout`].
    pub fn timeout(mut self, deadline: Duration) -> Self {
        self.timeout = deadline;
        self
    }

    /// The call begins at `now`, which whoever makes thousands a second has just looked at the clock for: its time counts from there.
    pub fn started_at(mut self, now: Instant) -> Self {
        self.started = Some(now);
        self
    }

    /// As [`Call::sticky_key`].
    pub fn sticky_key(mut self, key: &'a str) -> Self {
        self.pick.sticky = Some(key);
        self
    }

    /// As [`Call::balance`].
    pub fn balance(mut self, balance: Balance) -> Self {
        self.pick.balance = balance;
        self
    }

    pub(crate) fn one_way(mut self) -> Self {
        self.one_way = true;
        self
    }

    /// The answer may be a stream, of which `window` bytes may be sent ahead.
    pub(crate) fn streaming(mut self, window: u32) -> Self {
        self.window = Some(window);
        self
    }

    /// The stream that the call has become, if it has; once it is answered.
    pub(crate) fn opened_stream(&mut self) -> Option<OpenStream> {
        self.progress.opened.take().map(PendingCall::into_stream)
    }

    /// Calls whoever is at this address.
    pub(crate) fn to_address(mut self, address: SocketAddr) -> Self {
        self.address = Some(address);
        self
    }

    /// It finds out how a node does: that it fails is nobody else's news.
    pub(crate) fn without_health_effect(mut self) -> Self {
        self.is_probe = true;
        self
    }

    pub(crate) fn url(&self) -> String {
        format!("{}{}", self.method, self.path)
    }

    /// Makes an attempt. An answer is given at once to what is one-way.
    fn poll_attempt(&mut self, task: &mut TaskContext<'_>) -> Result<Option<Bytes>, CallError> {
        let now = self.started.take().unwrap_or_else(Instant::now);
        let context = Context::current();
        let deadline = *self.progress.deadline.get_or_insert_with(|| {
            if !self.is_probe {
                self.peers.retries().deposit();
            }
            let own = now.checked_add(self.timeout).unwrap_or_else(|| now + FOR_EVER);
            context.deadline.map_or(own, |inherited| own.min(inherited))
        });
        if deadline <= now {
            return Err(CallError::Deadline { url: self.url(), within: self.timeout });
        }
        if let Some(service) = self.peers.local()
            && self.address.is_none()
            && self.pick.instance.is_none()
            && self.progress.tried.is_empty()
            // A stream needs a connection: this node's own one, if it is listed.
            && self.window.is_none()
            && service.offers(self.method, self.path)
        {
            let text = self.arguments.text(&self.url())?;
            let answer = service.call((self.method, self.path), &text, Context { deadline: Some(deadline), ..context });
            if self.one_way {
                tokio::spawn(answer);
                return Ok(Some(Bytes::new()));
            }
            self.progress.state = CallState::Own(Box::pin(async move { timeout_at(deadline, answer).await.ok() }));
            return Ok(None);
        }
        let (providers, captured) = match self.peers.lookup(self.method, self.path) {
            Lookup::Available(providers, captured) => (providers, captured),
            Lookup::Unavailable => return self.no_provider_error().map(Some),
            Lookup::Unknown => return Err(CallError::NoRoute { url: self.url() }),
        };
        loop {
            let options = PickOptions { tried: &self.progress.tried, ..self.pick };
            let picked = match self.address {
                Some(address) => {
                    let provider = providers.list().iter().find(|provider| provider.connection.address == address);
                    let provider = provider.filter(|_| self.progress.tried.is_empty());
                    provider.inspect(|provider| self.peers.connect(&provider.connection))
                }
                None => providers.pick(&options, now, |provider| self.peers.connect(&provider.connection)),
            };
            let Some(provider) = picked else { return self.no_provider_error().map(Some) };
            match self.submit(provider, &captured, now, deadline, &context) {
                Ok(None) => return Ok(Some(Bytes::new())),
                Ok(Some(mut pending)) => {
                    // It may be lost already; and whoever answers wakes this task.
                    if let Poll::Ready(outcome) = pending.poll(task) {
                        if let Some(frame) = self.resolve(pending, outcome)? {
                            return Ok(Some(frame));
                        }
                        continue;
                    }
                    self.progress.state = CallState::Waiting(pending);
                    return Ok(None);
                }
                Err(SubmitError::Params(source)) => return Err(CallError::Params { url: self.url(), source }),
                Err(SubmitError::Connection(refusal)) => {
                    self.progress.full |= refusal == EnqueueError::Full;
                    // A version 2 provider may take what one of version 1 cannot read.
                    self.progress.too_large |= refusal == EnqueueError::TooLarge;
                    self.progress.tried.push(provider.connection.address);
                }
            }
        }
    }

    /// Asks a second provider when it is time to, and whether that has an outcome; it is the one that is waited for then.
    fn poll_hedge(&mut self, task: &mut TaskContext<'_>) -> Poll<Result<Bytes, CallFailure>> {
        if matches!(self.progress.hedge, HedgeState::Idle) {
            let may = self.idempotent && !self.one_way && self.address.is_none() && self.pick.instance.is_none();
            let after = self.hedge.filter(|_| may);
            self.progress.hedge = after.map_or(HedgeState::Done, |after| HedgeState::At(Box::pin(sleep(after))));
        }
        if let HedgeState::At(at) = &mut self.progress.hedge {
            if at.as_mut().poll(task).is_pending() {
                return Poll::Pending;
            }
            self.progress.hedge = self.start_hedge().map_or(HedgeState::Done, HedgeState::Asked);
        }
        let HedgeState::Asked(other) = &mut self.progress.hedge else { return Poll::Pending };
        let Poll::Ready(outcome) = other.poll(task) else { return Poll::Pending };
        if let (HedgeState::Asked(other), CallState::Waiting(first)) =
            (&mut self.progress.hedge, &mut self.progress.state)
        {
            std::mem::swap(other, first);
        }
        Poll::Ready(outcome)
    }

    /// Makes the call a second time, to a provider with a live connection, if there is another one.
    fn start_hedge(&self) -> Option<PendingCall> {
        let CallState::Waiting(first) = &self.progress.state else { return None };
        let now = Instant::now();
        let deadline = self.progress.deadline.filter(|deadline| *deadline > now)?;
        let Lookup::Available(providers, captured) = self.peers.lookup(self.method, self.path) else { return None };
        let tried: Vec<SocketAddr> = self.progress.tried.iter().copied().chain([first.connection().address]).collect();
        let options = PickOptions { tried: &tried, ..self.pick };
        let provider = providers.pick(&options, now, |provider| self.peers.connect(&provider.connection))?;
        let is_up = provider.connection.readiness(now) == Readiness::Ready;
        if !is_up || !self.peers.retries().try_withdraw(now.into_std()) {
            return None;
        }
        self.submit(provider, &captured, now, deadline, &Context::current()).ok().flatten()
    }

    /// Hands the call to a provider's connection.
    fn submit(
        &self,
        provider: &Provider,
        captured: &[&str],
        now: Instant,
        deadline: Instant,
        context: &Context,
    ) -> Result<Option<PendingCall>, SubmitError> {
        let connection = &provider.connection;
        let version = connection.version;
        // What the arguments are made of is the caller's code: not while the connection is locked.
        self.arguments.with_text(|text| {
            let merged = match version {
                Version::V1 => params::merge(text, params::names(&provider.route).zip(captured.iter().copied())),
                // It reads the path itself.
                Version::V2 => Cow::Borrowed(text),
            };
            let meta = |sent| CallMeta {
                time_left: Some(deadline.saturating_duration_since(now)),
                sent,
                trace: context.trace.as_ref().map(|trace| Cow::Owned(trace.child())),
                from: None,
                idempotent: self.idempotent && !is_idempotent(self.method),
                attempt: u8::try_from(self.progress.tried.len()).unwrap_or(u8::MAX),
                credit: self.window,
                hops: context.hops,
            };
            let url = (self.method, self.path);
            if self.one_way {
                connection
                    .send(|out| write_request(out, version, url, None, &merged, &meta(None)))
                    .map_err(SubmitError::Connection)?;
                return Ok(None);
            }
            let write =
                |key, sent, out: &mut _| write_request(out, version, url, Some(key), &merged, &meta(Some(sent)));
            let deadline_of_stream = context.deadline.map(Instant::into_std);
            let stream = self.window.map(|window| StreamOptions { deadline: deadline_of_stream, window });
            let pending = connection.submit(now, CallDeadlines { answer: deadline.into_std(), stream }, write);
            let pending = pending.map(|pending| if self.is_probe { pending.uncounted() } else { pending });
            pending.map(Some).map_err(SubmitError::Connection)
        })
    }

    /// What becomes of the call after an attempt has ended: its answer, or `None` for another attempt.
    fn resolve(
        &mut self,
        pending: PendingCall,
        outcome: Result<Bytes, CallFailure>,
    ) -> Result<Option<Bytes>, CallError> {
        // Mostly nobody asks for it.
        let now = || Instant::now().into_std();
        let connection = pending.connection();
        if self.is_probe {
            return match outcome {
                Ok(frame) => Ok(Some(frame)),
                Err(CallFailure::Lost { .. }) => Err(CallError::Lost { url: self.url(), node: connection.address }),
                Err(CallFailure::Deadline { .. }) => Err(CallError::Deadline { url: self.url(), within: self.timeout }),
            };
        }
        let retries = self.peers.retries();
        match outcome {
            Ok(frame) => {
                // Said before anything was done: somebody else may do it.
                let declined = success_parts(&frame).is_none() && is_declined(&frame);
                if declined && self.address.is_none() && self.pick.instance.is_none() && retries.try_withdraw(now()) {
                    self.progress.declined = Some(frame);
                    self.progress.tried.push(connection.address);
                    return Ok(None);
                }
                if self.window.is_some() && opens_stream(&frame) {
                    self.progress.opened = Some(pending);
                }
                Ok(Some(frame))
            }
            Err(CallFailure::Lost { written: false }) => {
                self.progress.tried.push(connection.address);
                Ok(None)
            }
            Err(CallFailure::Lost { written: true }) => {
                connection.load.record_failure(now(), true);
                self.peers.record_failed(connection.address);
                if self.idempotent && self.progress.lost.is_none() && retries.try_withdraw(now()) {
                    self.progress.lost = Some(connection.address);
                    self.progress.tried.push(connection.address);
                    return Ok(None);
                }
                Err(CallError::Lost { url: self.url(), node: connection.address })
            }
            Err(CallFailure::Deadline { .. }) => {
                connection.load.record_failure(now(), false);
                self.peers.record_failed(connection.address);
                Err(CallError::Deadline { url: self.url(), within: self.timeout })
            }
        }
    }

    /// Nobody is left to try.
    fn no_provider_error(&mut self) -> Result<Bytes, CallError> {
        let url = self.url();
        let CallProgress { lost, declined, full, too_large, .. } = &mut self.progress;
        match (lost, declined.take()) {
            (_, Some(declined)) => Ok(declined),
            (Some(node), None) => Err(CallError::Lost { url, node: *node }),
            (None, None) if *full => Err(CallError::Overloaded { url }),
            (None, None) if *too_large => Err(CallError::TooLarge { url }),
            (None, None) => Err(CallError::NoProvider { url }),
        }
    }
}

impl Future for RawCall<'_> {
    type Output = Result<RawResponse, CallError>;

    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            let frame = match &mut this.progress.state {
                CallState::Due => this.poll_attempt(task)?,
                CallState::Own(answer) => match answer.as_mut().poll(task) {
                    Poll::Ready(Some(frame)) => Some(frame),
                    Poll::Ready(None) => {
                        return Poll::Ready(Err(CallError::Deadline { url: this.url(), within: this.timeout }));
                    }
                    Poll::Pending => return Poll::Pending,
                },
                CallState::Waiting(pending) => {
                    let mut polled = pending.poll(task);
                    if polled.is_pending() && this.hedge.is_some() {
                        polled = this.poll_hedge(task);
                    }
                    let Poll::Ready(outcome) = polled else { return Poll::Pending };
                    let CallState::Waiting(pending) = std::mem::take(&mut this.progress.state) else { continue };
                    let settled = this.resolve(pending, outcome);
                    if !matches!(settled, Ok(Some(_)))
                        && let HedgeState::Asked(other) = std::mem::replace(&mut this.progress.hedge, HedgeState::Done)
                    {
                        // The other one may still do it.
                        this.progress.state = CallState::Waiting(other);
                        continue;
                    }
                    let frame = settled?;
                    if frame.is_none() {
                        continue;
                    }
                    frame
                }
            };
            if let Some(frame) = frame {
                this.progress.state = CallState::Due;
                return Poll::Ready(Ok(RawResponse { frame }));
            }
            let hedges = this.hedge.is_some() && matches!(this.progress.hedge, HedgeState::Idle);
            if matches!(this.progress.state, CallState::Waiting(_)) && !hedges {
                return Poll::Pending;
            }
        }
    }
}

/// Why a connection did not take a call.
enum SubmitError {
    Params(serde_json::Error),
    Connection(EnqueueError),
}

/// What can be written as JSON, whatever its type.
pub(crate) trait WriteJson {
    fn write_json(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error>;
}

impl<T: Serialize> WriteJson for T {
    fn write_json(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        serde_json::to_writer(out, self)
    }
}

impl CallArguments<'_> {
    fn with_text<R>(self, read: impl FnOnce(&str) -> Result<R, SubmitError>) -> Result<R, SubmitError> {
        let value = match self {
            Self::Text(text) => return read(text),
            Self::Value(value) => value,
        };
        with_scratch(|scratch| {
            value.write_json(scratch).map_err(SubmitError::Params)?;
            let text =
                std::str::from_utf8(scratch).map_err(|error| SubmitError::Params(serde::ser::Error::custom(error)))?;
            read(text)
        })
    }

    fn text(self, url: &str) -> Result<String, CallError> {
        self.with_text(|text| Ok(text.to_owned())).map_err(|refused| match refused {
            SubmitError::Params(source) => CallError::Params { url: url.to_owned(), source },
            SubmitError::Connection(_) => CallError::Overloaded { url: url.to_owned() },
        })
    }
}

impl std::fmt::Debug for CallArguments<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Value(_) => "value",
            Self::Text(text) => text,
        })
    }
}

impl std::fmt::Debug for CallState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Due => "due",
            Self::Waiting(_) => "waiting",
            Self::Own(_) => "at work here",
        })
    }
}

fn opens_stream(frame: &[u8]) -> bool {
    let opening = Packet::parse(frame).ok().as_ref().and_then(Part::from_packet);
    opening.is_some_and(|part| part.number == 0)
}

/// Methods that may be carried out twice (RFC 9110, 9.2.2).
fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "PUT" | "DELETE" | "OPTIONS" | "TRACE")
}
