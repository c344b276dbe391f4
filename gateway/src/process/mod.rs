//! The life of the process: command line, listeners, signals, replacement by a new process, and
//! what operators ask.
//!
//! Nothing here is on the way of a request, and no other folder imports this one.

pub(crate) mod admin;
pub(crate) mod cli;
pub(crate) mod lifecycle;
mod notify;
pub(crate) mod serve;
pub(crate) mod upgrade;
