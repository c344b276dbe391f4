//! A node from its start to its stop: its routes, layers and hooks, and what operators see of it.

mod basics;
mod hooks;
mod layers;
mod notices;
mod observe;
mod typed;
