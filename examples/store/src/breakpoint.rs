//! Places at which a service can be held, to see what becomes of an order if it is killed there.

use std::path::Path;
use std::time::Duration;

use tokio::time::sleep;

/// How often a held service looks whether it may go on.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Waits while a file of this name is in the folder that `STORE_BREAKPOINTS` names; beside it, a
/// file `NAME.reached` says that the service waits.
pub(crate) async fn pass(name: &str) {
    let Ok(folder) = std::env::var("STORE_BREAKPOINTS") else { return };
    let folder = Path::new(&folder);
    while folder.join(name).exists() {
        let _ = std::fs::write(folder.join(format!("{name}.reached")), "");
        sleep(LOOK_INTERVAL).await;
    }
}
