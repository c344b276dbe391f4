//! Looks up the names that nodes advertise, because lists show addresses.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use net::look_up_blocking;
use protocol::{HostPort, RegisterOptions, Registration};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Look-ups at a time. The system may keep each waiting for half a minute, in a thread of its own.
pub(crate) const MAX_LOOKUPS: usize = 16;
/// How long a node waits for the look-up of its name before it is told to come again.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);
/// When a node whose name cannot be looked up should register again.
pub(super) const LOOKUP_RETRY_AFTER: Duration = Duration::from_secs(3);

/// A registration whose advertised name is being looked up.
pub(super) struct PendingRegistration {
    pub(super) registration: Registration,
    pub(super) options: RegisterOptions,
    lookup: Pin<Box<dyn Future<Output = Result<IpAddr, String>> + Send>>,
}

impl PendingRegistration {
    /// Begins to look up `name`, which a node at the address `seen` advertises.
    pub(super) fn begin(
        lookups: &Arc<Semaphore>,
        name: String,
        seen: IpAddr,
        registration: Registration,
        options: RegisterOptions,
    ) -> Self {
        let lookup = Box::pin(look_up(Arc::clone(lookups), name, seen));
        Self { registration, options, lookup }
    }

    /// The address of the name, or why there is none. Cancel safe.
    pub(super) async fn looked_up(&mut self) -> Result<IpAddr, String> {
        self.lookup.as_mut().await
    }
}

/// The first address of `name` at which a node can be called whose connection comes from `seen`.
async fn look_up(lookups: Arc<Semaphore>, name: String, seen: IpAddr) -> Result<IpAddr, String> {
    let looking = async {
        let permit = lookups.acquire_owned().await.map_err(|closed| closed.to_string())?;
        let asked = name.clone();
        let found = tokio::task::spawn_blocking(move || {
            // Held until the system has answered: a look-up that was given up still has its thread.
            let _permit = permit;
            look_up_blocking(&asked, ANY_PORT)
        });
        let addresses = found.await.map_err(|panicked| panicked.to_string())?.map_err(|error| error.to_string())?;
        let mut hosts = addresses.into_iter().map(|address| address.ip());
        let can_be_called = |host: &IpAddr| HostPort::from((*host, ANY_PORT)).check_advertised(seen).is_ok();
        hosts.find(can_be_called).ok_or_else(|| format!("the name {name} has no address that others can call"))
    };
    let late = || format!("the name {name} could not be looked up within {LOOKUP_TIMEOUT:?}");
    timeout(LOOKUP_TIMEOUT, looking).await.unwrap_or_else(|_elapsed| Err(late()))
}

/// A look-up of a host needs a port, and any will do.
const ANY_PORT: u16 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a3_a_name_is_looked_up_and_its_address_checked() {
        let lookups = || Arc::new(Semaphore::new(1));
        let look = async |name: &str, seen: &str| look_up(lookups(), name.to_owned(), seen.parse().unwrap()).await;
        // This name is known on every machine, and leads others to themselves.
        assert!(look("localhost", "127.0.0.1").await.is_ok_and(|host| host.is_loopback()));
        let error = look("localhost", "10.0.0.1").await.unwrap_err();
        assert!(error.contains("localhost") && error.contains("others can call"), "{error}");
        let error = look("no-such-host.invalid", "10.0.0.1").await.unwrap_err();
        assert!(error.contains("no-such-host.invalid"), "{error}");
        let none = Arc::new(Semaphore::new(0));
        let error = look_up(none, "localhost".to_owned(), "127.0.0.1".parse().unwrap()).await.unwrap_err();
        assert!(error.contains("within"), "{error}");
    }
}
