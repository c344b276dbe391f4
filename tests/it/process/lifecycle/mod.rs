//! The life of a program: its start, its stop, its restart and its upgrade, by a person or by a
//! manager.

mod endings;
mod kit;
mod managers;
mod resources;
mod restart;
mod upgrade;
