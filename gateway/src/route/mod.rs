//! What holds for the path of a request: its normal form, limits, and cookies. It imports no
//! configuration.

pub(crate) mod cookie;
pub(crate) mod limits;
pub(crate) mod path;
