//! Programs as operators run them: files, signals, output, networks and resources that fail. No
//! test here looks into a program: each one asks from outside.

mod gateway;
mod lifecycle;
mod metrics;
mod network;
mod notices;
mod openapi;
mod operators;
mod settings;
mod shares;
mod unix_sockets;
mod whereabouts;
