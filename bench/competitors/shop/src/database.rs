use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use tonic::Status;

#[derive(Clone)]
pub struct Database(Arc<Mutex<Connection>>);

pub enum Failure {
    Status(Status),
    Sqlite(rusqlite::Error),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Database {
    pub fn open(file: &Path, tables: &str) -> rusqlite::Result<Self> {
        let connection = Connection::open(file)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.execute_batch(tables)?;
        Ok(Self(Arc::new(Mutex::new(connection))))
    }

    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Status> {
        let connection = Arc::clone(&self.0);
        let worked =
            tokio::task::spawn_blocking(move || work(&mut connection.lock().unwrap_or_else(PoisonError::into_inner)));
        match worked.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(Failure::Status(status))) => Err(status),
            Ok(Err(Failure::Sqlite(source))) => {
                eprintln!("database: {source}");
                Err(Status::internal("the database failed"))
            }
            Err(join) => {
                eprintln!("database task: {join}");
                Err(Status::internal("the database failed"))
            }
        }
    }
}
