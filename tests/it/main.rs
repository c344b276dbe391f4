//! The properties that must hold for a cluster. Tests that begin with letters and a number are rows
//! of the fault catalogue in `docs/FAULTS.md`.
#![expect(clippy::unwrap_used, reason = "in a test a surprise is a failure")]

mod docs;
mod examples;
mod gateway;
mod hermetic;
mod process;
mod programs;
mod registry;
mod sdk;
mod turns;
