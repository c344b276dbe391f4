//! The file of a log: events, subscriptions, and what could not be handled.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, params};

use crate::error::LogError;
use crate::event_log::deliveries::StoredEvent;

/// Maximum number of events of one read, and about how many bytes of payloads.
const MAX_READ: usize = 128;
const MAX_READ_BYTES: usize = 4 << 20;
/// Events that are removed at a time, when there are too many: one commit stays short.
const MAX_TRIMMED: u64 = 1000;
/// Maximum number of subscriptions: each has a row for ever, and memory while it is read.
const MAX_SUBSCRIPTIONS: u64 = 1000;
/// Maximum number of buried events that are kept for a person to look at; the oldest go first.
const MAX_BURIED: u64 = 10_000;

/// How long a log keeps events: a fault on a Friday is mended by the next Thursday.
const DEFAULT_MAX_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Bytes of payloads that a log keeps: any disk has room for them.
const DEFAULT_MAX_BYTES: u64 = 1024 << 20;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS events (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL,
        key TEXT,
        time INTEGER NOT NULL,
        payload TEXT NOT NULL
    );
    CREATE TABLE IF NOT EXISTS subscriptions (name TEXT PRIMARY KEY, floor INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS buried (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        subscription TEXT NOT NULL,
        position INTEGER NOT NULL,
        id TEXT NOT NULL,
        name TEXT NOT NULL,
        time INTEGER NOT NULL,
        payload TEXT NOT NULL,
        why TEXT NOT NULL
    );
";

/// How much a log keeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogLimits {
    /// How long events are kept, whether they are handled or not.
    pub(crate) max_age: Duration,
    /// Maximum bytes of all payloads.
    pub(crate) max_bytes: u64,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { max_age: DEFAULT_MAX_AGE, max_bytes: DEFAULT_MAX_BYTES }
    }
}

/// Where a subscription begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StartPosition {
    /// Where it was, or as far back as the log goes.
    First,
    /// Where it was, or at the end.
    New,
    /// At the first event from this time on, in milliseconds since 1970, wherever it was.
    Time(u64),
}

/// An event that is about to be stored.
#[derive(Clone, Debug)]
pub(crate) struct NewEvent {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) key: Option<String>,
    pub(crate) payload: String,
}

/// The open file. Its owner alone reads and writes it.
#[derive(Debug)]
pub(super) struct Store {
    connection: Connection,
    limits: LogLimits,
    /// The bytes of all payloads.
    bytes: u64,
    /// The last position.
    end: u64,
    /// All events up to here were removed.
    trimmed: u64,
}

impl Store {
    pub(super) fn open(path: &Path, limits: LogLimits) -> Result<Self, LogError> {
        let connection = Connection::open(path)?;
        // The lock is held as long as the file is open: two processes would send each event twice.
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.execute_batch(SCHEMA)?;
        let one = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
        let bytes = unsigned(one("SELECT COALESCE(SUM(LENGTH(CAST(payload AS BLOB))), 0) FROM events")?);
        let end = unsigned(one("SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence WHERE name = 'events'")?);
        let first = "SELECT MIN(position) FROM events";
        let first: Option<i64> = connection.query_row(first, [], |row| row.get(0))?;
        let trimmed = first.map_or(end, |first| unsigned(first).saturating_sub(1));
        Ok(Self { connection, limits, bytes, end, trimmed })
    }

    /// The last position.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// All events up to here were removed.
    pub(super) fn trimmed(&self) -> u64 {
        self.trimmed
    }

    /// Runs writes that become durable together, or not at all.
    pub(super) fn write<T>(
        &mut self,
        now: u64,
        act: impl FnOnce(&mut Writes<'_>) -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        let mut writes =
            Writes { transaction: self.connection.transaction()?, now, end: self.end, added: 0, trimmed: self.trimmed };
        let done = act(&mut writes)?;
        let bytes = (self.bytes + writes.added).saturating_sub(writes.trim(self.limits, self.bytes)?);
        let Writes { transaction, end, trimmed, .. } = writes;
        transaction.commit()?;
        (self.bytes, self.end, self.trimmed) = (bytes, end, trimmed);
        Ok(done)
    }

    /// The next events after a position, and the position up to which this is all there is.
    pub(super) fn read(&self, after: u64) -> Result<(Vec<StoredEvent>, u64), LogError> {
        let sql = "SELECT position, id, name, key, time, payload FROM events WHERE position > ?1 ORDER BY position";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query([signed(after)])?;
        let (mut events, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.next()? {
            let event = StoredEvent {
                position: unsigned(row.get(0)?),
                id: row.get(1)?,
                name: row.get(2)?,
                key: row.get(3)?,
                time: unsigned(row.get(4)?),
                payload: row.get(5)?,
            };
            bytes += event.payload.len();
            events.push(event);
            if events.len() >= MAX_READ || bytes >= MAX_READ_BYTES {
                let read = events.last().map_or(after, |event: &StoredEvent| event.position);
                return Ok((events, read));
            }
        }
        Ok((events, self.end))
    }
}

/// Writes on their way to the disk.
pub(super) struct Writes<'a> {
    transaction: Transaction<'a>,
    /// The time of day in milliseconds since 1970.
    now: u64,
    end: u64,
    /// Bytes of payloads.
    added: u64,
    trimmed: u64,
}

impl Writes<'_> {
    /// Adds an event, and returns its position. If its id is there, it is that of the earlier one.
    pub(super) fn append(&mut self, event: &NewEvent) -> Result<u64, LogError> {
        let NewEvent { id, name, key, payload } = event;
        let known = "SELECT position FROM events WHERE id = ?1";
        let known = self.transaction.prepare_cached(known)?.query_row([id], |row| row.get(0)).optional()?;
        if let Some(position) = known {
            return Ok(unsigned(position));
        }
        let sql = "INSERT INTO events (id, name, key, time, payload) VALUES (?1, ?2, ?3, ?4, ?5)";
        let position =
            self.transaction.prepare_cached(sql)?.insert(params![id, name, key, signed(self.now), payload])?;
        self.end = unsigned(position);
        self.added += u64::try_from(payload.len()).unwrap_or(u64::MAX);
        Ok(self.end)
    }

    /// The position up to which a subscription has all events. It is made if it is not there.
    pub(super) fn subscribe(&mut self, name: &str, start: StartPosition) -> Result<u64, LogError> {
        let known = "SELECT floor FROM subscriptions WHERE name = ?1";
        let known = self.transaction.query_row(known, [name], |row| row.get(0)).optional()?.map(unsigned);
        let floor = match (start, known) {
            (StartPosition::First | StartPosition::New, Some(floor)) => return Ok(floor),
            (StartPosition::First, None) => self.trimmed,
            (StartPosition::New, None) => self.end,
            (StartPosition::Time(time), _) => {
                let before = "SELECT MAX(position) FROM events WHERE time < ?1";
                let before: Option<i64> = self.transaction.query_row(before, [signed(time)], |row| row.get(0))?;
                before.map_or(0, unsigned).max(self.trimmed)
            }
        };
        let count: i64 = self.transaction.query_row("SELECT COUNT(*) FROM subscriptions", [], |row| row.get(0))?;
        if known.is_none() && unsigned(count) >= MAX_SUBSCRIPTIONS {
            return Err(LogError::TooManySubscriptions { max: MAX_SUBSCRIPTIONS });
        }
        self.set_floor(name, floor)?;
        Ok(floor)
    }

    pub(super) fn set_floor(&mut self, name: &str, floor: u64) -> Result<(), LogError> {
        let sql = "INSERT OR REPLACE INTO subscriptions (name, floor) VALUES (?1, ?2)";
        self.transaction.prepare_cached(sql)?.execute(params![name, signed(floor)])?;
        Ok(())
    }

    /// Keeps an event for a person that could not be handled.
    pub(super) fn bury(&mut self, subscription: &str, event: &StoredEvent, why: &str) -> Result<(), LogError> {
        let StoredEvent { position, id, name, time, payload, key: _ } = event;
        let sql = "INSERT INTO buried (subscription, position, id, name, time, payload, why) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let number = self.transaction.prepare_cached(sql)?.insert(params![
            subscription,
            signed(*position),
            id,
            name,
            signed(*time),
            payload,
            why
        ])?;
        let oldest = number.saturating_sub(signed(MAX_BURIED));
        self.transaction.execute("DELETE FROM buried WHERE number <= ?1", [oldest])?;
        Ok(())
    }

    /// Removes the oldest events, as far as they are too old or too many. Returns their bytes.
    fn trim(&mut self, limits: LogLimits, bytes_before: u64) -> Result<u64, LogError> {
        let oldest = self.now.saturating_sub(u64::try_from(limits.max_age.as_millis()).unwrap_or(u64::MAX));
        let mut excess = (bytes_before + self.added).saturating_sub(limits.max_bytes);
        let sql = "SELECT position, time, LENGTH(CAST(payload AS BLOB)) FROM events ORDER BY position LIMIT ?1";
        let (mut removed, trimmed_before) = (0, self.trimmed);
        {
            let mut statement = self.transaction.prepare_cached(sql)?;
            let mut rows = statement.query([signed(MAX_TRIMMED)])?;
            while let Some(row) = rows.next()? {
                let (position, time, bytes) = (unsigned(row.get(0)?), unsigned(row.get(1)?), unsigned(row.get(2)?));
                // The newest one stays, however large it is: it has just been accepted.
                if position == self.end || (time >= oldest && excess == 0) {
                    break;
                }
                self.trimmed = position;
                removed += bytes;
                excess = excess.saturating_sub(bytes);
            }
        }
        if self.trimmed > trimmed_before {
            self.transaction
                .prepare_cached("DELETE FROM events WHERE position <= ?1")?
                .execute([signed(self.trimmed)])?;
        }
        Ok(removed)
    }
}

/// SQLite has signed integers; none of ours is as large.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

impl From<rusqlite::Error> for LogError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::InUse,
            Some(_) | None => Self::Storage(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: &str, payload: &str) -> NewEvent {
        NewEvent { id: id.to_owned(), name: "a".to_owned(), key: None, payload: payload.to_owned() }
    }

    fn open(folder: &tempfile::TempDir, limits: LogLimits) -> Store {
        Store::open(&folder.path().join("events.db"), limits).unwrap()
    }

    fn append(store: &mut Store, now: u64, id: &str, payload: &str) -> Result<u64, LogError> {
        store.write(now, |writes| writes.append(&event(id, payload)))
    }

    fn positions(store: &Store) -> Vec<u64> {
        store.read(0).unwrap().0.iter().map(|event| event.position).collect()
    }

    #[test]
    fn what_is_written_is_there_after_it_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(&folder, LogLimits::default());
        assert_eq!((append(&mut store, 5, "x", "1"), append(&mut store, 6, "y", "2")), (Ok(1), Ok(2)));
        assert_eq!(append(&mut store, 7, "x", "3"), Ok(1), "its id is there");
        assert_eq!(store.write(7, |writes| writes.subscribe("s", StartPosition::First)), Ok(0));
        store.write(7, |writes| writes.set_floor("s", 1)).unwrap();
        // A write that fails leaves nothing behind.
        let failed = store.write(8, |writes| {
            writes.append(&event("z", "4"))?;
            Err::<(), _>(LogError::Ended)
        });
        assert_eq!((failed, store.end(), positions(&store)), (Err(LogError::Ended), 2, vec![1, 2]));
        assert_eq!(Store::open(&folder.path().join("events.db"), LogLimits::default()).map(drop), Err(LogError::InUse));
        drop(store);
        let mut store = open(&folder, LogLimits::default());
        assert_eq!((store.end(), store.bytes, store.trimmed()), (2, 2, 0));
        for (start, expected) in [
            (StartPosition::First, 1),
            (StartPosition::New, 1),
            (StartPosition::Time(6), 1),
            (StartPosition::Time(0), 0),
        ] {
            assert_eq!(store.write(9, |writes| writes.subscribe("s", start)), Ok(expected), "{start:?}");
        }
        assert_eq!(store.write(9, |writes| writes.subscribe("new", StartPosition::New)), Ok(2));
    }

    #[test]
    fn a_disk_that_is_full_fails_a_write_and_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(&folder, LogLimits::default());
        assert_eq!(append(&mut store, 1, "x", "1"), Ok(1));
        let pages: i64 = store.connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
        store.connection.pragma_update(None, "max_page_count", pages + 1).unwrap();
        assert_eq!(append(&mut store, 2, "large", &"x".repeat(100_000)), Err(LogError::Full));
        assert_eq!((positions(&store), store.bytes, store.end()), (vec![1], 1, 1));
        store.connection.pragma_update(None, "max_page_count", pages + 1000).unwrap();
        assert_eq!(append(&mut store, 3, "large", &"x".repeat(100_000)), Ok(2), "there is room again");
    }

    #[test]
    fn the_oldest_events_go_when_they_are_too_old_or_too_many() {
        let folder = tempfile::tempdir().unwrap();
        let limits = LogLimits { max_age: Duration::from_millis(100), max_bytes: 10 };
        let mut store = open(&folder, limits);
        for (now, id) in [(1000, "a"), (1001, "b"), (1050, "c")] {
            append(&mut store, now, id, "1234").unwrap();
        }
        assert_eq!((positions(&store), store.bytes, store.trimmed()), (vec![2, 3], 8, 1), "the first was too much");
        append(&mut store, 1102, "d", "1").unwrap();
        assert_eq!((positions(&store), store.bytes, store.trimmed()), (vec![3, 4], 5, 2), "the second is too old");
        assert_eq!(store.write(1102, |writes| writes.subscribe("s", StartPosition::First)), Ok(2));
        append(&mut store, 5000, "e", "1").unwrap();
        assert_eq!((positions(&store), store.end()), (vec![5], 5));
        append(&mut store, 9000, "f", "12345678901").unwrap();
        drop(store);
        let store = open(&folder, limits);
        assert_eq!((positions(&store), store.end(), store.trimmed()), (vec![6], 6, 5), "the newest one stays");
    }

    #[test]
    fn a_read_ends_before_it_is_too_large_and_names_and_burials_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(&folder, LogLimits::default());
        store
            .write(1, |writes| (0..300).try_for_each(|at| writes.append(&event(&at.to_string(), "1")).map(drop)))
            .unwrap();
        let (events, read) = store.read(0).unwrap();
        assert_eq!((events.len(), read), (MAX_READ, 128));
        let (rest, end) = store.read(256).unwrap();
        assert_eq!((rest.len(), end), (44, 300));
        let made = store.write(1, |writes| {
            (0..MAX_SUBSCRIPTIONS).try_for_each(|at| writes.subscribe(&at.to_string(), StartPosition::New).map(drop))
        });
        made.unwrap();
        let one_more = store.write(1, |writes| writes.subscribe("more", StartPosition::New));
        assert_eq!(one_more, Err(LogError::TooManySubscriptions { max: MAX_SUBSCRIPTIONS }));
        let bury = |writes: &mut Writes<'_>| (0..=MAX_BURIED).try_for_each(|_| writes.bury("s", &events[0], "because"));
        store.write(1, bury).unwrap();
        let count: i64 = store.connection.query_row("SELECT COUNT(*) FROM buried", [], |row| row.get(0)).unwrap();
        assert_eq!(unsigned(count), MAX_BURIED);
    }
}
