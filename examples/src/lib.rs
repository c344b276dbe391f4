//! The example programs: three services of a shop, each with a database of its own.
//!
//! | program | what it runs |
//! |---|---|
//! | `shop` | a Distributor, a gateway and all services, several times each, in one process |
//! | `members`, `goods`, `purchases` | one service |
//!
//! `examples/README.md` has the commands and what one sees. The folder `hello` beside this crate is
//! a service to copy, and `js` has services in plain Node.js.

pub mod database;
pub mod goods;
pub mod members;
pub mod program;
pub mod purchases;
pub mod shop;
