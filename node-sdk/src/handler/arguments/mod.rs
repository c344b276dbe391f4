//! The arguments of handlers, and how they are read from a call.
//!
//! It must not run a handler, and must not write a response.

mod awaited;
pub(crate) mod extension;
mod extract;
mod param_forms;
mod params;

pub(crate) use self::awaited::unless_refused;
pub use self::awaited::{Argument, AsyncFromCall, Awaited};
pub use self::extension::Extension;
pub(crate) use self::extension::Extensions;
pub use self::extract::{Caller, Deadline, Params, Path, RawParams, State};
