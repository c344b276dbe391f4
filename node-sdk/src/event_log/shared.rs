//! The log of a node, which publishers and readers share.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::event_matches;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::error::LogError;
use crate::event_log::deliveries::{Consumer, Deliveries, FailureOutcome, StoredEvent};
use crate::event_log::store::{LogLimits, NewEvent, StartPosition};
use crate::event_log::writer::{self, Command};

/// The log of a node.
#[derive(Debug)]
pub(crate) struct EventLog {
    commands: mpsc::Sender<Command>,
    /// The position of the last event.
    end: watch::Receiver<u64>,
    /// The subscriptions that are read now, or were before.
    subscriptions: Mutex<HashMap<Arc<str>, Arc<Subscription>>>,
    next_consumer: AtomicU64,
}

/// One subscription. Each node of its group reads it over a stream.
#[derive(Debug)]
pub(crate) struct Subscription {
    name: Arc<str>,
    state: Mutex<SubscriptionState>,
    /// Changes when an event may have become free.
    pub(crate) changed: watch::Sender<()>,
    /// Locked while the log is read for the subscription.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct SubscriptionState {
    deliveries: Deliveries,
    /// The pattern that the latest of its nodes has asked for.
    pattern: String,
    /// Events that were removed before they were read, and of which no node was told.
    missed: u64,
    stored_floor: u64,
}

/// What is next for a node.
#[derive(Debug)]
pub(crate) enum ReaderStep {
    /// An event, and how many attempts at it have failed.
    Event(Arc<StoredEvent>, u32),
    /// The number of events that were removed from the log before they were read.
    Missed(u64),
    /// Nothing until this time, unless the subscription changes.
    Nothing(Option<Instant>),
}

impl EventLog {
    /// Opens or makes the file.
    pub(crate) async fn open(path: PathBuf, limits: LogLimits) -> Result<Arc<Self>, LogError> {
        let (commands, end) = writer::start(path, limits).await?;
        let (subscriptions, next_consumer) = (Mutex::default(), AtomicU64::new(0));
        Ok(Arc::new(Self { commands, end, subscriptions, next_consumer }))
    }

    /// Stores an event, and returns its position once it is on disk. Dropping the future before
    /// that may leave it stored or not.
    pub(crate) async fn append(&self, event: NewEvent) -> Result<u64, LogError> {
        self.ask(|reply| Command::Append(event, reply)).await
    }

    /// The subscription of this name, and a number for one of its readers.
    pub(crate) async fn subscribe(
        &self,
        name: &str,
        pattern: &str,
        start: StartPosition,
    ) -> Result<(Arc<Subscription>, Consumer), LogError> {
        let known = self.lock().get(name).cloned().filter(|_| !matches!(start, StartPosition::Time(_)));
        let subscription = match known {
            Some(known) => known,
            None => {
                let name: Arc<str> = name.into();
                let floor = self.ask(|reply| Command::Subscribe(Arc::clone(&name), start, reply)).await?;
                self.add(name, pattern, floor, matches!(start, StartPosition::Time(_)))
            }
        };
        if !pattern.is_empty() {
            pattern.clone_into(&mut subscription.lock().pattern);
        }
        Ok((subscription, self.next_consumer.fetch_add(1, Ordering::Relaxed)))
    }

    fn add(&self, name: Arc<str>, pattern: &str, floor: u64, begins_again: bool) -> Arc<Subscription> {
        let mut subscriptions = self.lock();
        if let Some(known) = subscriptions.get(&name) {
            if begins_again {
                // What its readers have now is unknown to it, and their reports change nothing.
                known.lock().deliveries = Deliveries::new(floor);
                known.changed.send_replace(());
            }
            return Arc::clone(known);
        }
        let deliveries = Deliveries::new(floor);
        let state = SubscriptionState { deliveries, pattern: pattern.to_owned(), missed: 0, stored_floor: floor };
        let subscription = Arc::new(Subscription {
            name: Arc::clone(&name),
            state: Mutex::new(state),
            changed: watch::Sender::new(()),
            reading: tokio::sync::Mutex::default(),
        });
        subscriptions.insert(name, Arc::clone(&subscription));
        subscription
    }

    /// The position of the last event, and its changes.
    pub(crate) fn end(&self) -> watch::Receiver<u64> {
        self.end.clone()
    }

    /// What is next for a reader. Reads the file if that is needed. Cancel safe.
    pub(crate) async fn next(&self, subscription: &Subscription, consumer: Consumer) -> Result<ReaderStep, LogError> {
        loop {
            let after = {
                let now = Instant::now();
                let mut state = subscription.lock();
                if let Some((event, failed)) = state.deliveries.lease(consumer, now) {
                    return Ok(ReaderStep::Event(event, failed));
                }
                match std::mem::take(&mut state.missed) {
                    0 => {}
                    missed => return Ok(ReaderStep::Missed(missed)),
                }
                match state.deliveries.wants_after().filter(|after| *after < *self.end.borrow()) {
                    Some(after) => after,
                    None => return Ok(ReaderStep::Nothing(state.deliveries.next_at())),
                }
            };
            self.read(subscription, after).await?;
        }
    }

    /// Reads what follows a position, unless another reader of the subscription has done so.
    async fn read(&self, subscription: &Subscription, after: u64) -> Result<(), LogError> {
        let _reading = subscription.reading.lock().await;
        if subscription.lock().deliveries.wants_after() != Some(after) {
            return Ok(());
        }
        let batch = self.ask(|reply| Command::Read(after, reply)).await?;
        let mut state = subscription.lock();
        if state.deliveries.wants_after() == Some(after) {
            state.missed += state.deliveries.skip_to(batch.trimmed);
            let SubscriptionState { deliveries, pattern, .. } = &mut *state;
            let wanted = batch.events.into_iter().filter(|event| event_matches(pattern, &event.name));
            deliveries.add(wanted.map(Arc::new), batch.read, Instant::now());
        }
        drop(state);
        self.store_floor(subscription);
        Ok(())
    }

    /// A reader has handled an event.
    pub(crate) fn acknowledge(&self, subscription: &Subscription, consumer: Consumer, position: u64) {
        if subscription.lock().deliveries.acknowledge(consumer, position) {
            subscription.changed.send_replace(());
            self.store_floor(subscription);
        }
    }

    /// A reader has failed to handle an event. One that is not sent again is buried.
    pub(crate) async fn fail(
        &self,
        subscription: &Subscription,
        consumer: Consumer,
        event: &Arc<StoredEvent>,
        for_good: bool,
        why: &str,
    ) -> FailureOutcome {
        let failed = subscription.lock().deliveries.fail(consumer, event.position, for_good, Instant::now());
        subscription.changed.send_replace(());
        if failed == FailureOutcome::Buried {
            let command = Command::Bury(Arc::clone(&subscription.name), Arc::clone(event), why.to_owned());
            let _ = self.commands.send(command).await;
            self.store_floor(subscription);
        }
        failed
    }

    /// A reader has gone.
    pub(crate) fn release(&self, subscription: &Subscription, consumer: Consumer) {
        subscription.lock().deliveries.release(consumer, Instant::now());
        subscription.changed.send_replace(());
    }

    /// Has the floor stored, if it has changed. If there is no room for that now, the next change
    /// stores it: until then, a crash has events sent again.
    fn store_floor(&self, subscription: &Subscription) {
        let mut state = subscription.lock();
        let floor = state.deliveries.floor();
        if floor != state.stored_floor
            && self.commands.try_send(Command::Floor(Arc::clone(&subscription.name), floor)).is_ok()
        {
            state.stored_floor = floor;
        }
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, LogError>>) -> Command,
    ) -> Result<T, LogError> {
        let (reply, replied) = oneshot::channel();
        let sent = self.commands.send(command(reply)).await;
        sent.map_err(|_ended| LogError::Ended)?;
        replied.await.map_err(|_ended| LogError::Ended)?
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Subscription>>> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription {
    fn lock(&self) -> MutexGuard<'_, SubscriptionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
