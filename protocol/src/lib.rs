//! The protocol of the mesh, without I/O: frames, packets, registrations, lists and calls.
//!
//! Everything here is pure: no sockets, no clock, no random numbers, no tasks, no logs. Code that
//! needs the time takes it as an argument. Bytes of a peer never cause a panic; readers return a
//! value or an error. `docs/PROTOCOL.md` describes what this crate implements.
//!
//! Bytes from a connection go through a [`FrameDecoder`], and each frame through the reader of what
//! it may be. Functions called `write_…` append one packet to a buffer, ready to send.
//!
//! | to handle | start with |
//! |---|---|
//! | frames | [`FrameDecoder`] |
//! | any packet | [`Packet`] |
//! | calls | [`Request`] and [`Response`]; [`write_request`] and [`ResponseWriter`] |
//! | streams | [`parse_part`] and [`PartWriter`] |
//! | what a node says to the Distributor | [`Registration`] and [`RegisterOptions`] |
//! | what the Distributor says to nodes | [`ListUpdate`], which a [`Replica`] applies |
//! | routes and urls | [`Route`], which a [`Router`] finds by a path |
//! | version 1 peers, which read little at a time | [`ReadWindow`] |
//!
//! ```
//! use bytes::BytesMut;
//! use protocol::{CallMeta, CallUrl, FrameDecoder, Key, Request, Version, write_request};
//!
//! let mut sent = BytesMut::new();
//! let meta = CallMeta { idempotent: true, ..CallMeta::default() };
//! write_request(&mut sent, Version::V2, CallUrl::new("GET", "/goods/7"), Some(1), "{}", &meta);
//!
//! let mut decoder = FrameDecoder::new(64 * 1024);
//! decoder.buffer().extend_from_slice(&sent);
//! let frame = decoder.next_frame()?.expect("a whole frame has arrived");
//! let request = Request::parse(&frame)?;
//! assert_eq!((&*request.method, &*request.uri), ("GET", "/goods/7"));
//! assert_eq!(request.key, Some(Key::Number(1)));
//! assert!(request.meta.idempotent);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod address;
mod call;
mod codec;
mod json;
mod key;
mod legacy;
mod packet;
mod registry;
mod route;
mod route_syntax;
mod router;
mod secret;

pub use address::{AdvertisedError, BlockedHost, HostName, HostPort, HostPortError, blocked_host, reached_host};
pub use call::{
    ANY_INSTANCE, BODY_WINDOW, CREDIT_URI, CallMeta, CallUrl, ClientRequest, EVENT_LOG_URL, EventFields, HELLO_URI,
    Hello, JsonText, LegacyResponse, LogPart, LogReport, LogRequest, LoggedEvent, MAX_RAW_PART_BYTES, PART_URI,
    PUSH_URL, Part, PartWriter, PresentSession, PushAction, PushClose, PushCommand, PushHello, PushMiss, PushReport,
    PushTarget, Request, Response, ResponseHeaders, ResponseParts, ResponsePayload, ResponseWriter, STREAM_WINDOW,
    Side, SocketCall, SocketClosed, SocketEvent, SocketWelcome, StreamHead, WRONG_INSTANCE, WRONG_INSTANCE_STATUS,
    parse_part, parse_raw_part, read_credit, read_pairs, read_raw_part, response_parts, success_parts, write_cancel,
    write_credit, write_end, write_hello, write_open, write_raw_part, write_request, write_response, write_stream_head,
};
pub use codec::{
    DELIMITER, FrameDecoder, FrameTooLarge, MAX_JOINED_BYTES, MAX_PIECES, attach, is_blank, seal, split_attachment,
    write_attached,
};
pub use json::{Members, Text, TooDeep, check_depth, is_one_value};
pub use key::Key;
pub use legacy::{LEGACY_READ_BYTES, ReadWindow, WindowFull};
pub use packet::{Packet, PacketError, Version};
pub use registry::{
    Advert, CopyPart, Delta, Digest, HISTORY_URI, HistoryEvent, HttpAdvert, IgnoredParts, KnownNode, LeaveReason,
    ListUpdate, ListUpdateError, ListedHost, MAX_BLOCKS, MAX_NEED_BYTES, MAX_NEED_ROUTES, MAX_UNPACKED_BYTES, NEED_URI,
    NEEDED_URI, Node, PING_URI, PONG_URI, Ping, Pong, REGISTRY_URI, RETENTION, RegisterOptions, Registration,
    RegistrationError, RegistrationLimits, RegistryEntry, Replica, Report, ResumePoint, Revision, RouteAdvert,
    RouteAdverts, SocketAdvert, SuspicionChange, UnpackError, UnpackedBlocks, Unreachable, UpdateHeader, UpdateOutcome,
    VISIBLE_URI, Visibility, VisibilityTarget, WantedHeaders, WholeList, host_text, is_copy_request, is_field_name,
    pack, read_copy, read_history_request, read_need, read_needed, read_report, write_block, write_copy,
    write_copy_request, write_delta, write_history, write_history_request, write_leave, write_legacy_list, write_list,
    write_list_request, write_need, write_needed, write_packed_delta, write_packed_list, write_ping, write_pong,
    write_refusal, write_registration, write_report, write_visibility,
};
pub use route::{
    EVENT_METHOD, EVENT_PREFIX, Route, RouteError, Segment, check_event, event_matches, foreign_prefix, is_idempotent,
};
pub use router::{RouteMatch, Router, RouterError};
pub use secret::Secret;
