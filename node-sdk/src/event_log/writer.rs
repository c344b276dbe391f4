//! The task that owns the file of a log. Waiting commands are written in one batch, with one
//! flush.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use net::{error, time_of_day, warn};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;

use crate::error::LogError;
use crate::event_log::deliveries::StoredEvent;
use crate::event_log::store::{LogLimits, NewEvent, StartPosition, Store, Writes};

/// Maximum number of queued commands: one batch that is written, and one that arrives meanwhile.
/// Further senders wait.
const MAX_WAITING: usize = 512;
/// Maximum number of commands of one flush.
const MAX_BATCH: usize = 256;

type Reply<T> = oneshot::Sender<Result<T, LogError>>;

/// One request to the file.
#[derive(Debug)]
pub(super) enum Command {
    Append(NewEvent, Reply<u64>),
    Subscribe(Arc<str>, StartPosition, Reply<u64>),
    /// Stores that all events up to this position are done for the subscription.
    Floor(Arc<str>, u64),
    /// Buries an event that could not be handled, for this reason.
    Bury(Arc<str>, Arc<StoredEvent>, String),
    /// Reads the events after a position.
    Read(u64, Reply<Batch>),
}

/// Events that were read.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) events: Vec<StoredEvent>,
    /// The log was read up to this position: it has no other events before.
    pub(super) read: u64,
    /// All events up to this position were removed from the log.
    pub(super) trimmed: u64,
}

/// The result of a command, with its reply channel.
enum WriteResult {
    Position(u64, Reply<u64>),
    Nothing,
}

/// Opens the file, and starts its task, which ends when the sender is dropped. Also
/// returns the position of the last event, which follows each batch.
pub(super) async fn start(
    path: PathBuf,
    limits: LogLimits,
) -> Result<(mpsc::Sender<Command>, watch::Receiver<u64>), LogError> {
    let opened = spawn_blocking(move || Store::open(&path, limits)).await;
    let store = opened.map_err(|_panic| LogError::Storage("opening it has failed".to_owned()))??;
    let (sender, commands) = mpsc::channel(MAX_WAITING);
    let (end, ends) = watch::channel(store.end());
    tokio::spawn(run(store, commands, end));
    Ok((sender, ends))
}

async fn run(mut store: Store, mut commands: mpsc::Receiver<Command>, end: watch::Sender<u64>) {
    let mut batch = Vec::with_capacity(MAX_BATCH);
    while commands.recv_many(&mut batch, MAX_BATCH).await > 0 {
        let taken = std::mem::take(&mut batch);
        let done = spawn_blocking(move || {
            execute(&mut store, taken);
            store
        });
        match done.await {
            Ok(returned) => store = returned,
            Err(_panic) => {
                error!("the event log has ended: its file could not be used; restart the service");
                return;
            }
        }
        end.send_if_modified(|last| std::mem::replace(last, store.end()) != store.end());
    }
}

/// Runs commands: first all writes in one transaction, then the reads.
fn execute(store: &mut Store, commands: Vec<Command>) {
    let now = time_of_day().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let now = u64::try_from(now).unwrap_or(u64::MAX);
    let (mut writes, mut reads) = (Vec::new(), Vec::new());
    for command in commands {
        match command {
            Command::Read(after, reply) => reads.push((after, reply)),
            Command::Append(..) | Command::Subscribe(..) | Command::Floor(..) | Command::Bury(..) => {
                writes.push(command);
            }
        }
    }
    if !writes.is_empty() {
        write_all(store, now, writes);
    }
    for (after, reply) in reads {
        let trimmed = store.trimmed();
        let read = store.read(after.max(trimmed)).map(|(events, read)| Batch { events, read, trimmed });
        // The reader may have gone.
        let _ = reply.send(read);
    }
}

fn write_all(store: &mut Store, now: u64, commands: Vec<Command>) {
    let mut outcomes = Vec::with_capacity(commands.len());
    let mut left = commands.into_iter();
    let written = store.write(now, |writes| {
        for command in left.by_ref() {
            outcomes.push(write(writes, command)?);
        }
        Ok(())
    });
    if let Err(failure) = &written {
        warn!("the event log is not written: {failure}");
    }
    for outcome in outcomes {
        if let WriteResult::Position(position, reply) = outcome {
            let _ = reply.send(written.clone().map(|()| position));
        }
    }
    // The commands after the one that failed were not run.
    if let Err(failure) = written {
        for command in left {
            match command {
                Command::Append(_, reply) | Command::Subscribe(_, _, reply) => {
                    let _ = reply.send(Err(failure.clone()));
                }
                Command::Floor(..) | Command::Bury(..) | Command::Read(..) => {}
            }
        }
    }
}

/// Runs one command. Too many subscriptions fail this command only; any other error ends the
/// transaction.
fn write(writes: &mut Writes<'_>, command: Command) -> Result<WriteResult, LogError> {
    let (result, reply) = match command {
        Command::Append(event, reply) => (writes.append(&event), reply),
        Command::Subscribe(name, start, reply) => (writes.subscribe(&name, start), reply),
        Command::Floor(name, floor) => return writes.set_floor(&name, floor).map(|()| WriteResult::Nothing),
        Command::Bury(name, event, why) => return writes.bury(&name, &event, &why).map(|()| WriteResult::Nothing),
        Command::Read(..) => return Ok(WriteResult::Nothing),
    };
    match result {
        Ok(position) => Ok(WriteResult::Position(position, reply)),
        Err(failure @ LogError::TooManySubscriptions { .. }) => {
            let _ = reply.send(Err(failure));
            Ok(WriteResult::Nothing)
        }
        Err(failure) => {
            let _ = reply.send(Err(failure.clone()));
            Err(failure)
        }
    }
}
