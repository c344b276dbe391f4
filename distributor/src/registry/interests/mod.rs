//! The interests of nodes: what each is told of, the bytes that all of them may take, and the
//! search for those that include a node.
//!
//! It must not write what a node is told: `updates` does.

pub(super) mod budget;
pub(super) mod index;
pub(crate) mod needs;
