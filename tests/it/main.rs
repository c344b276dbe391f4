//! What must hold for a cluster. Tests that begin with letters and a number are rows of the fault catalogue in
//! `docs/FAULTS.md`.
#![expect(clippy::unwrap_used, reason = "in a test a surprise is a failure")]

mod broadcast;
mod calls;
mod conform;
mod crowds;
mod door;
mod endings;
mod events;
mod faults;
mod figures;
mod framing;
mod gateway;
mod hostile;
mod http2;
mod js;
mod json;
mod layers;
mod legacy;
mod mesh;
mod network;
mod operators;
mod order;
mod policies;
mod registration;
mod resources;
mod restart;
mod scale;
mod sdk;
mod shop;
mod streams;
mod streams_at_the_door;
mod takeover;
mod transcript;
mod typed;
mod upstreams;
