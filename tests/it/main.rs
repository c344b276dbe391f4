//! What must hold for a cluster. Tests that begin with letters and a number are rows of the fault catalogue in
//! `docs/FAULTS.md`.

mod broadcast;
mod framing;
mod json;
mod registration;
