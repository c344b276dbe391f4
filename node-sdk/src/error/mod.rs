//! What goes wrong: errors, one variant for each thing that a caller or an author would do
//! differently, and what is counted and logged of the faults that no caller is told of.
//!
//! It must not decide what follows a fault. It must import no other folder.

mod call_error;
mod delivery_error;
#[cfg(feature = "event-log")]
mod log_error;
pub(crate) mod lost;
pub(crate) mod malformed;
mod service_error;
mod start_error;

pub use self::call_error::CallError;
pub use self::delivery_error::DeliveryError;
#[cfg(feature = "event-log")]
pub use self::log_error::{LogError, PublishError};
pub use self::service_error::ServiceError;
pub(crate) use self::service_error::{error_status, no_room, result_status};
pub use self::start_error::StartError;
