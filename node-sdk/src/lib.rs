//! What a microservice embeds: a [`Node`] listens, registers at the Distributor, knows its peers,
//! and calls them directly.
//!
//! ```no_run
//! use node_sdk::{Node, Params, ServiceError};
//!
//! #[derive(serde::Deserialize)]
//! struct Guest {
//!     name: String,
//! }
//!
//! async fn hello(Params(guest): Params<Guest>) -> Result<String, ServiceError> {
//!     Ok(format!("Hello, {}!", guest.name))
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), node_sdk::StartError> {
//!     let node = Node::builder("hello").listen("127.0.0.1:9010");
//!     node.route("GET/hello", hello).public().serve().await
//! }
//! ```
//!
//! | to | start with |
//! |---|---|
//! | run one service until a signal stops it | [`serve`](NodeBuilder::serve) |
//! | do other work beside it | [`serve_with`](NodeBuilder::serve_with) |
//! | do something first, or last | [`on_start`](NodeBuilder::on_start), or `on_stop` |
//! | let operators set addresses and limits | [`environment`](NodeBuilder::environment) |
//! | run nodes beside other work in one process | [`start`](NodeBuilder::start), for a [`Node`] |
//! | offer an HTTP server of axum or hyper | [`offer_http`](NodeBuilder::offer_http) |
//! | only call others | a [`Node`] without routes, and its [`peers`](Node::peers) |
//! | call others from a handler | [`Peers`] as an argument |
//! | test services | `testing::TestMesh`, of the feature `testing` |
//!
//! # Answering calls
//!
//! A handler is an async function. Its arguments say what it needs of a call. It returns anything
//! that is [`Respond`], or a [`ServiceError`].
//!
//! ```
//! use std::sync::atomic::{AtomicU64, Ordering};
//!
//! use node_sdk::{Created, Node, Params, Path, Peers, ServiceError, State};
//!
//! #[derive(serde::Deserialize)]
//! struct NewGood {
//!     name: String,
//! }
//!
//! async fn find(Path(id): Path<u64>) -> Result<String, ServiceError> {
//!     match id {
//!         7 => Ok("shoes".to_owned()),
//!         _ => Err(ServiceError::not_found("unknown_good", "no such good")),
//!     }
//! }
//!
//! async fn add(
//!     Params(good): Params<NewGood>,
//!     next_id: State<AtomicU64>,
//!     peers: Peers,
//! ) -> Result<Created<u64>, ServiceError> {
//!     peers.emit("goods.added", &good.name)?;
//!     Ok(Created(next_id.fetch_add(1, Ordering::Relaxed)))
//! }
//!
//! let node = Node::builder("goods")
//!     .state(AtomicU64::new(8))
//!     .route("GET/goods/{id}", find)
//!     .route("POST/goods", add);
//! ```
//!
//! | to get | take as an argument |
//! |---|---|
//! | the arguments of the call | [`Params`], or [`RawParams`] as text |
//! | parts of the path | [`Path`] |
//! | a value that all calls share | [`State`] |
//! | the other nodes | [`Peers`] |
//! | who calls | [`Caller`] |
//! | the time that is left | [`Deadline`] |
//! | the trace of the call | [`Trace`] |
//! | that the node stops | [`Stop`] |
//! | the parts that the caller sends | [`Items`] |
//! | the name of an event | [`Event`] |
//! | the body of a client's request | [`RawBody`], or [`BodyStream`] while it arrives |
//! | what a guard has found out | [`Extension`] |
//! | a type of your own | that type, which is [`FromCall`] |
//! | what has to be awaited | [`Awaited`], of a type that is [`AsyncFromCall`] |
//!
//! # Guards and layers
//!
//! A [`guard`](NodeBuilder::guard) checks calls before the handler: its error is the answer. A
//! [`layer`](NodeBuilder::layer) stands around the handler. Both hold for the routes that follow,
//! until their [`group`](NodeBuilder::group) ends.
//!
//! ```
//! # use node_sdk::{Caller, Next, Node, Outcome, Route, ServiceError};
//! # async fn list() -> Result<Vec<u64>, ServiceError> { Ok(vec![7]) }
//! # async fn delete() -> Result<(), ServiceError> { Ok(()) }
//! // A caller states its name, and nothing proves it: the network of the mesh has to be trusted.
//! async fn admins(caller: Caller) -> Result<(), ServiceError> {
//!     match caller.name().as_deref() {
//!         Some("admin") => Ok(()),
//!         _ => Err(ServiceError::new(403, "admins_only", "this is for admins")),
//!     }
//! }
//!
//! async fn logged(route: Route, next: Next) -> Result<Outcome, ServiceError> {
//!     let outcome = next.run().await;
//!     let status = outcome.as_ref().map_or_else(|error| error.status, Outcome::status);
//!     println!("{route}: {status}");
//!     outcome
//! }
//!
//! let node = Node::builder("goods")
//!     .layer(logged)
//!     .route("GET/goods", list)
//!     .group(|group| group.guard(admins).route("DELETE/goods/{id}", delete));
//! ```
//!
//! # Calling other nodes
//!
//! [`Peers`] calls what other nodes offer, by url:
//!
//! ```no_run
//! # async fn example(peers: node_sdk::Peers) -> Result<(), node_sdk::CallError> {
//! use std::time::Duration;
//!
//! let name: String = peers.call("GET/members/7/name", &()).timeout(Duration::from_secs(1)).await?;
//! peers.emit("members.renamed", &name)?;
//! # Ok(()) }
//! ```
//!
//! `?` on a failed call tells the caller of the handler that a service has failed, and no urls,
//! addresses or texts of other services: see [`OrRefuse`]. The type `()` takes any answer.
//!
//! Calls are balanced by latency and load, see [`Balance`]. A call that never reached the wire, or
//! is idempotent, is retried elsewhere within a budget. The attribute `#[service]` makes a trait
//! and a typed client of one description.
//!
//! # Errors
//!
//! A [`CallError`] says what became of a call, and so what its caller can do:
//!
//! ```no_run
//! use node_sdk::{CallError, Peers};
//!
//! async fn name_of_member(peers: &Peers) -> Result<String, CallError> {
//!     match peers.call("GET/members/7/name", &()).await {
//!         // The member does not exist: the node has answered.
//!         Err(CallError::Refused { status: 404, .. }) => Ok("unknown".to_owned()),
//!         // Nothing was sent, so trying again does no harm. A misspelt url ends here, too.
//!         Err(error @ (CallError::NoRoute { .. } | CallError::NoProvider { .. })) => {
//!             eprintln!("{error}; is the service running?");
//!             Err(error)
//!         }
//!         // The call may have been carried out. Ask for its effect before it is tried again.
//!         Err(error @ (CallError::Lost { .. } | CallError::Deadline { .. })) => Err(error),
//!         other => other,
//!     }
//! }
//! ```
//!
//! # Streams
//!
//! A handler that returns [`Streaming`] answers in parts, and one that takes [`Items`] reads parts
//! of its caller. [`Peers::stream`] opens such a call:
//!
//! ```no_run
//! # async fn example(peers: node_sdk::Peers) -> Result<(), node_sdk::CallError> {
//! use futures::TryStreamExt;
//!
//! let mut ticks = peers.stream::<u64>("GET/ticks", &()).await?;
//! while let Some(tick) = ticks.try_next().await? {
//!     println!("{tick}");
//! }
//! # Ok(()) }
//! ```
//!
//! # Sockets
//!
//! [`NodeBuilder::sockets`] offers a route whose WebSockets and event streams stay with the
//! gateway: the node is called for each message, and [pushes](Peers::push) to any client of any
//! gateway.
//!
//! # Events
//!
//! [`Peers::emit`] tells one node of each name that has [subscribed](NodeBuilder::subscribe) to an
//! event. There is no answer, and nothing is stored: a node that is away does not get the event
//! later. [`Peers::deliver`] waits for an acknowledgement and tries again. The feature `event-log`
//! keeps events on disk. `docs/guide/events.md` has a table of what each promises.
//!
//! ```
//! # use node_sdk::{Node, Params, ServiceError};
//! async fn welcome(Params(member): Params<u64>) -> Result<(), ServiceError> {
//!     println!("welcome, {member}");
//!     Ok(())
//! }
//!
//! let node = Node::builder("mails").subscribe("members.joined", welcome);
//! ```
//!
//! # Log lines
//!
//! What a node does and what goes wrong are [`tracing`](https://docs.rs/tracing) events. In a
//! program without a subscriber, [`serve`](NodeBuilder::serve) prints those from `INFO` on to
//! standard error:
//!
//! ```text
//!  INFO listening address=127.0.0.1:9010 name=hello routes=1
//!  INFO connected: registered at 127.0.0.1:9000 name=hello
//! ```
//!
//! [`silent`](NodeBuilder::silent) turns that off. With a subscriber, as of `tracing-subscriber`,
//! nothing is printed beside it. After a [`start`](NodeBuilder::start) only the first warning that
//! no subscriber gets is printed, with a hint.
//!
//! The feature `log` has `init_log`, a subscriber as the daemons have it: text or JSON on standard
//! error, with a level from the environment, which no task waits for.
//!
//! # What a call hands down
//!
//! Work that is done for a call inherits from the call, whether that comes from another node, a
//! gateway, or the node itself:
//!
//! - **Trace.** All work for a call is of one [`Trace`], which the gateway begins, or else the
//!   first handler that asks for it: calls, streams, events, and tasks of [`detach`].
//! - **Deadline.** A call made for a call ends a margin before it, a tenth of the time that is left
//!   and 100 ms at most, so that its error can still be dealt with. An open stream, an event and a
//!   task of [`detach`] have no deadline.
//! - **Cancelling.** Dropping the future of a call cancels the call, on the remote node too. A
//!   handler whose method is idempotent (`GET`, `HEAD`, `PUT`, `DELETE`, `OPTIONS`), or whose
//!   caller says so ([`Call::idempotent`]), is dropped then. Any other is finished, for 30 s at
//!   most, and its answer goes nowhere. So is any handler of a route that is offered
//!   [`to_the_end`](NodeBuilder::to_the_end). An open stream ends with its caller.
//! - **Time to undo.** A handler that is finished has time to undo its work. From when its caller
//!   has gone, or a call made for it has timed out in the last 500 ms of its time, the calls that
//!   it makes have these 30 s.
//! - **Work that outlasts the call** is detached with [`detach`]. [`Node::stop`] waits for it. This
//!   holds for destructors, too, which undo the work of a handler that is dropped.
//!
//! `docs/guide/cancellation.md` in the repository has an example of each, and `docs/PROTOCOL.md`
//! has the rules as a table.
//!
//! # Cancel safety
//!
//! - Futures that only wait are cancel safe: [`Node::ready`], [`Node::wait_visible`],
//!   [`Peers::wait_for`], [`Peers::wait_until`] and [`Changes::next`] lose nothing when they are
//!   dropped, and can be made again.
//! - [`PartSender::send`] is cancel safe: a part is sent as a whole or not at all.
//! - Dropping a [`CallFuture`] cancels the call, as said above. The other node may have carried it
//!   out.
//! - Dropping the future of [`Node::stop`] stops the node at once, and cuts its connections.
//!
//! # Examples
//!
//! The folder `examples` of this crate has a program for each of streams, events, hedges, layers,
//! typed services and a mesh inside a test: `cargo run -p node-sdk --features testing --example
//! streams`.
//!
//! # When the Distributor is gone
//!
//! A node keeps serving and calling with the nodes that it knows, and registers again when the
//! Distributor is back. Version 1 callers are answered in their own form.
//!
//! # Tests
//!
//! The feature `testing` has `testing::TestMesh`: a Distributor and nodes in one process, on a
//! clock that can be paused. It brings tokio's `test-util`, so enable it for tests only, under
//! `[dev-dependencies]`.
//!
#![cfg_attr(feature = "testing", doc = "```")]
#![cfg_attr(not(feature = "testing"), doc = "```ignore")]
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # use node_sdk::testing::TestMesh;
//! # use node_sdk::{Node, ServiceError};
//! # async fn hello() -> Result<String, ServiceError> { Ok("Hello!".to_owned()) }
//! let mesh = TestMesh::start();
//! let greeter = mesh.node(Node::builder("greeter").route("GET/hello", hello)).await?;
//! let caller = mesh.node(Node::builder("caller")).await?;
//! caller.peers().wait_for(&["GET/hello"]).await;
//! assert_eq!(caller.peers().call::<String>("GET/hello", &()).await?, "Hello!");
//! # Ok(()) }
//! ```
//!
//! # For gateways
//!
//! The module [`gateway`] has the functions that only gateways need.

#[cfg(feature = "macros")]
mod attributes;
mod balance;
mod client;
mod context;
mod discovery;
mod error;
#[cfg(feature = "event-log")]
mod event_log;
mod handler;
mod node;
mod observe;
mod peers;
mod push;
mod routing;
mod server;
mod transport;
mod typed;

#[cfg(feature = "macros")]
pub use attributes::{Refusal, handler, service};
pub use balance::{Balance, Balancer, Candidate};
pub use client::call::{Call, CallFuture};
pub use client::events::deliver::Deliver;
#[cfg(feature = "event-log")]
pub use client::events::publish::Publish;
#[doc(hidden)]
pub use client::stream::FromPart;
pub use client::stream::{Duplex, PartSender, StreamCall, StreamFuture};
pub use context::{Stop, Trace, detach};
pub use discovery::RECONNECT_PERIOD;
pub use error::{CallError, DeliveryError, ServiceError, StartError};
#[cfg(feature = "event-log")]
pub use error::{LogError, PublishError};
#[doc(hidden)]
pub use handler::arguments::extension::ExtensionValue;
#[doc(hidden)]
pub use handler::call_stream::Parts;
pub use handler::failed_call::OrRefuse;
pub use handler::http::{
    Bearer, Binary, BodyStream, ByteStream, ClientAddress, Cookie, Cookies, Headers, Html, HttpRequest, HttpResponse,
    LastEventId, RawBody, Redirect, SameSite, ServerEvent, StreamItem, Text, Wants,
};
pub use handler::respond::{Accepted, Created, NoContent, Outcome, Respond};
pub use handler::sockets::{Session, Sockets};
pub use handler::stream::{BoxStreaming, Items, Streaming};
#[doc(hidden)]
pub use handler::{Argument, HandlerWork, Missing};
pub use handler::{
    AsyncFromCall, Awaited, Caller, Deadline, Event, Extension, FromCall, Handler, IncomingCall, Next, Params, Path,
    RawParams, State, StateTypes,
};
#[cfg(feature = "log")]
pub use net::LogGuard;
#[cfg(feature = "log")]
pub use node::init_log;
#[cfg(feature = "testing")]
pub use node::testing;
pub use node::{HttpOffer, Node, NodeBuilder};
pub use peers::{Changes, Peers, gateway};
pub use protocol::{
    Advert, HttpAdvert, PresentSession, ResponseHeaders, Route, SocketClosed as Closed, SocketWelcome as Welcome,
    Visibility,
};
pub use push::PushError;
pub use transport::budget::BufferUsage;
pub use transport::limits::DEFAULT_DEADLINE;
pub use typed::call::ServiceCall;
pub use typed::refusal::{Refusal, ServiceCallError};
pub use typed::stream::{ServiceSender, ServiceStream, ServiceStreamCall};

/// The pages of the guide. Their code is compiled with the tests of this documentation.
#[cfg(doctest)]
mod guide {
    #[doc = include_str!("../../docs/guide/services.md")]
    pub struct Services;
    #[doc = include_str!("../../docs/guide/typed.md")]
    pub struct Typed;
    #[doc = include_str!("../../docs/guide/auth.md")]
    pub struct Auth;
    #[doc = include_str!("../../docs/guide/errors.md")]
    pub struct Errors;
    #[doc = include_str!("../../docs/guide/layers.md")]
    pub struct Layers;
    #[doc = include_str!("../../docs/guide/streams.md")]
    pub struct Streams;
    #[doc = include_str!("../../docs/guide/push.md")]
    pub struct Push;
    #[doc = include_str!("../../docs/guide/files.md")]
    pub struct Files;
    #[doc = include_str!("../../docs/guide/conditions.md")]
    pub struct Conditions;
    #[doc = include_str!("../../docs/guide/events.md")]
    pub struct Events;
    #[cfg(feature = "event-log")]
    #[doc = include_str!("../../docs/guide/event_log.md")]
    pub struct EventLog;
    #[doc = include_str!("../../docs/guide/cancellation.md")]
    pub struct Cancellation;
    #[doc = include_str!("../../docs/guide/running.md")]
    pub struct Running;
    #[doc = include_str!("../../docs/guide/deploying.md")]
    pub struct Deploying;
    #[cfg(feature = "testing")]
    #[doc = include_str!("../../docs/guide/testing.md")]
    pub struct Testing;
}

/// What the attributes expand to.
#[doc(hidden)]
pub mod private {
    pub use serde::{self, Deserialize, Serialize};

    pub use crate::typed::checks::{
        HandlerResult, check_argument, check_error, check_future, check_read, check_refusal, check_result, check_value,
    };
    #[cfg(feature = "schema")]
    pub use schemars;

    pub use crate::typed::client::{CallSettings, ServiceClient};
    #[cfg(feature = "schema")]
    pub use crate::typed::schema::RouteSchema;
    pub use crate::typed::url::ServiceUrl;
}
