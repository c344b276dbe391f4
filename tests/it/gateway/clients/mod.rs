//! What clients of the gateway send and get: both versions of HTTP, browsers, and clients that are
//! slow, many or hostile.

mod browsers;
mod crowds;
mod http1;
mod http2;
mod http2_abuse;
mod leniency;
mod origins;
