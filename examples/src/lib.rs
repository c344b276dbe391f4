//! The example programs: three services of a shop, each with a database of its own, and others that
//! each show one thing.
//!
//! | program | what it runs |
//! |---|---|
//! | `shop` | a Distributor, a gateway and all services, several times each, in one process |
//! | `members`, `goods`, `purchases` | one service of the shop |
//! | `chat` | rooms over WebSockets, on any number of nodes |
//! | `counter` | streams and an event, to be tried by hand |
//!
//! `examples/README.md` has the commands and what one sees. The folder `hello` beside this crate is
//! a service to copy, and `js` has services in plain Node.js.

pub mod chat;
pub mod counter;
pub mod database;
pub mod goods;
pub mod members;
pub mod program;
pub mod purchases;
pub mod shop;
