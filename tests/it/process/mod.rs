//! Programs as operators run them: files, signals, output, networks and resources that fail. No
//! test here looks into a program: each one asks from outside.

mod endings;
mod gateway;
mod kit;
mod managers;
mod metrics;
mod network;
mod notices;
mod operators;
mod resources;
mod restart;
mod settings;
mod shares;
mod unix_sockets;
mod upgrade;
mod whereabouts;
