//! The rules for the path of a request: its normal form, limits, and cookies. It does not import
//! the configuration.

pub(crate) mod cookie;
pub(crate) mod limits;
pub(crate) mod params;
pub(crate) mod path;
