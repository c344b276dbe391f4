//! An SQLite database that handlers can use without blocking others.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use node_sdk::ServiceError;
use rusqlite::Connection;
use tracing::error;

/// One connection to a database file. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Database(Arc<Mutex<Connection>>);

impl Database {
    /// Opens, or makes, the file and its tables. Several processes may share one file.
    ///
    /// # Errors
    /// The error of SQLite, with the name of the file.
    pub fn open(file: &Path, tables: &str) -> Result<Self, String> {
        Self::try_open(file, tables).map_err(|error| format!("cannot use the database {}: {error}", file.display()))
    }

    fn try_open(file: &Path, tables: &str) -> rusqlite::Result<Self> {
        let connection = Connection::open(file)?;
        // Instances of a service write to one file: they wait for each other instead of failing.
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.execute_batch(tables)?;
        Ok(Self(Arc::new(Mutex::new(connection))))
    }

    /// Runs `work` where blocking is allowed.
    ///
    /// # Errors
    /// The result of `work`; an error of SQLite is logged and shown to callers as internal.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, ServiceError> {
        let connection = Arc::clone(&self.0);
        let worked = tokio::task::spawn_blocking(move || {
            // SQLite rolls back what a panic left open.
            work(&mut connection.lock().unwrap_or_else(PoisonError::into_inner))
        });
        match worked.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(Failure::Service(refusal))) => Err(refusal),
            Ok(Err(Failure::Sqlite(source))) => {
                error!(error = %source, "database");
                Err(ServiceError::internal("the database failed"))
            }
            Err(join) => {
                error!(error = %join, "database task");
                Err(ServiceError::internal("the database failed"))
            }
        }
    }
}

/// Why work on a database ended without a value.
#[derive(Debug)]
pub enum Failure {
    /// The request cannot be carried out, for a reason that the caller is told.
    Service(ServiceError),
    /// SQLite failed.
    Sqlite(rusqlite::Error),
}

impl From<ServiceError> for Failure {
    fn from(refusal: ServiceError) -> Self {
        Self::Service(refusal)
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}
