//! The rules for the path of a request: its normal form, whether it is answered, limits, and
//! cookies.
//!
//! It must not read the configuration: it decides by what it is given. Of the other folders it must
//! import only `io` and `message`.

pub(crate) mod access;
pub(crate) mod cookie;
pub(crate) mod cors;
pub(crate) mod limits;
pub(crate) mod params;
pub(crate) mod path;
pub(crate) mod path_readings;
