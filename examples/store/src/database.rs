//! The SQLite database of a service.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use node_sdk::ServiceError;
use rusqlite::{Connection, TransactionBehavior};
use tracing::error;

/// One connection to the file of a service. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub(crate) struct Database(Arc<Mutex<Connection>>);

impl Database {
    /// Opens `NAME.db` in the folder that `STORE_DATA` names, or makes it and its tables.
    pub(crate) fn open(name: &str, tables: &str) -> Result<Self, String> {
        let folder = PathBuf::from(std::env::var("STORE_DATA").unwrap_or_else(|_| "store-data".to_owned()));
        let file = folder.join(format!("{name}.db"));
        let opened = std::fs::create_dir_all(&folder).map_err(|error| error.to_string()).and_then(|()| {
            let connection = Connection::open(&file).and_then(|connection| {
                // Processes of one service wait for each other.
                connection.busy_timeout(Duration::from_secs(5))?;
                connection.pragma_update(None, "journal_mode", "WAL")?;
                // What is answered has been written, also when the machine loses its power.
                connection.pragma_update(None, "synchronous", "FULL")?;
                connection.execute_batch(tables)?;
                Ok(connection)
            });
            connection.map_err(|error| error.to_string())
        });
        let connection = opened.map_err(|error| format!("cannot use the database {}: {error}", file.display()))?;
        Ok(Self(Arc::new(Mutex::new(connection))))
    }

    /// Runs `work` in a transaction, where blocking is allowed. It is rolled back if `work` fails.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, ServiceError> {
        let connection = Arc::clone(&self.0);
        let worked = tokio::task::spawn_blocking(move || -> Result<T, Failure> {
            let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            // It is begun as one that writes: else it might fail when it first does.
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = work(&transaction)?;
            transaction.commit()?;
            Ok(value)
        });
        match worked.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(Failure::Refused(refusal))) => Err(refusal),
            Ok(Err(Failure::Sqlite(source))) => Err(failed(&source)),
            Err(panicked) => Err(failed(&panicked)),
        }
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> ServiceError {
    error!(error, "the database failed");
    ServiceError::internal("the database failed")
}

/// Why work on the database ended without a value.
pub(crate) enum Failure {
    /// The request cannot be carried out, for a reason that the caller is told.
    Refused(ServiceError),
    /// SQLite failed.
    Sqlite(rusqlite::Error),
}

impl From<ServiceError> for Failure {
    fn from(refusal: ServiceError) -> Self {
        Self::Refused(refusal)
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}
