//! Bodies that are not JSON: bytes, whole or in parts, and texts.
//!
//! It must not decide what a gateway sends: arguments and results only say what they want.

mod binary;
mod body_stream;
mod byte_stream;
mod text;

pub use self::binary::{Binary, RawBody};
pub use self::body_stream::BodyStream;
pub use self::byte_stream::ByteStream;
pub use self::text::{Html, Text};
