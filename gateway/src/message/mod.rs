//! What messages of both versions of HTTP have in common. Pure: it imports nothing of the other folders.

pub(crate) mod problem;
