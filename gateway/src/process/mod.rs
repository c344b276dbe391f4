//! The life of the process: command line, listeners, signals, replacement by a new process, and the
//! address for operators.
//!
//! It must not see the requests of clients. Other folders must not import it.

pub(crate) mod admin;
pub(crate) mod cli;
pub(crate) mod lifecycle;
mod openapi;
mod pid_file;
mod routes_page;
pub(crate) mod serve;
mod start;
pub(crate) mod upgrade;
