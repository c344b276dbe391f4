//! Nodes that a test plays, starts in another language, or listens to.

mod js;
mod log;
mod raw_node;
pub mod streams;

pub use js::{example, goods, goods_of_version, js_file};
pub use log::{NodeLog, log_to};
pub use raw_node::{RawNode, answer_to};
