//! The wire of the mesh, without I/O: frames, packets, registrations, lists and calls.
//!
//! Everything here is pure: no sockets, no clock, no tasks, no logging. Bytes that came from a peer never
//! panic; they give a value or an error. `docs/PROTOCOL.md` is the law that this crate implements.

mod answer;
mod codec;
mod json;
mod key;
mod legacy;
mod list;
mod packet;
mod registration;
mod request;
mod route;

pub use answer::{Answer, Reply, write_answer};
pub use codec::{DELIMITER, FrameDecoder, FrameTooLarge, is_blank, seal};
pub use json::{Members, TooDeep, check_depth};
pub use key::Key;
pub use legacy::{LEGACY_READ_BYTES, ReadWindow, Unread};
pub use list::{ListError, Node, NodeList, REGISTRY_URI, shown_host, write_list, write_refusal};
pub use packet::{Packet, PacketError, Text, Version};
pub use registration::{Advert, Registration, RegistrationError, RegistrationLimits, write_registration};
pub use request::{Request, write_request};
pub use route::{Route, RouteError, Segment};
