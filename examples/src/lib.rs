//! The three services of the shop, each with a database of its own.

pub mod database;
pub mod goods;
pub mod members;
pub mod program;
pub mod purchases;
pub mod shop;
