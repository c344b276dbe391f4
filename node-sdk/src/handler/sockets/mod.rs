//! Held sockets for handlers: the three handlers of a route, the session that they are called for,
//! and the stream by which a gateway takes pushes.
//!
//! It must not know connections or packets: gateways hold the sockets, and `push` has the streams.

mod push_route;
mod session;

use std::any::TypeId;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use protocol::{SocketAdvert, SocketEvent};

pub(crate) use self::push_route::push_route;
pub use self::session::Session;
use crate::error::ServiceError;
use crate::handler::http::Wants;
use crate::handler::invocation::RunningHandler;
use crate::handler::{AnyHandler, Handler, IncomingCall, Missing, StateTypes, erased};

/// The handlers of a route whose sockets gateways hold: see
/// [`NodeBuilder::sockets`](crate::NodeBuilder::sockets). Each event is a call, to any node that
/// offers the route, so nodes keep nothing of a socket and may come and go.
///
/// - `open`: a client asks for the socket. The handler has the request, its query as
///   [`Params`](crate::Params), and the [`Session`]. It answers with a
///   [`Welcome`](crate::Welcome), or with an error, which the client gets as the answer of its
///   request.
/// - `message`: the client has sent a message, which is [`Params`](crate::Params). Those of one
///   client are handled one after the other. A result that is not `()` or `null` is sent to the
///   client. An error closes the socket, with 4000 and the status for its code.
/// - `close`: the client is gone, with [`Params`](crate::Params)`<`[`Closed`](crate::Closed)`>`.
///   Called once, after the last message; not if the gateway itself is lost.
///
/// ```
/// use node_sdk::{Node, Params, Path, Peers, ServiceError, Sockets, Welcome};
///
/// async fn enter(Path(room): Path<String>) -> Result<Welcome<String>, ServiceError> {
///     Ok(Welcome::new().group(&room).messages([format!("this is {room}")]))
/// }
///
/// async fn say(
///     Path(room): Path<String>,
///     Params(text): Params<String>,
///     peers: Peers,
/// ) -> Result<(), ServiceError> {
///     peers.push_group(&room, &text).await?;
///     Ok(())
/// }
///
/// let sockets = Sockets::open(enter).message(say);
/// let node = Node::builder("chat").sockets("GET/chat/{room}", sockets).public();
/// ```
#[derive(Clone)]
pub struct Sockets {
    open: Arc<dyn AnyHandler>,
    message: Arc<dyn AnyHandler>,
    close: Arc<dyn AnyHandler>,
    pub(crate) advert: SocketAdvert,
}

impl Sockets {
    /// Sockets that this handler accepts. A client that sends a message is refused, and nothing
    /// happens when one goes.
    pub fn open<A: 'static>(handler: impl Handler<A>) -> Self {
        let refuses = async || Err::<(), _>(ServiceError::new(403, "no_messages", "this socket takes no messages"));
        let ignores = async || Ok::<(), ServiceError>(());
        let advert = SocketAdvert::default();
        Self { open: erased(handler), message: erased(refuses), close: erased(ignores), advert }
    }

    /// Handles the messages of clients.
    #[must_use]
    pub fn message<A: 'static>(self, handler: impl Handler<A>) -> Self {
        Self { message: erased(handler), ..self }
    }

    /// Is told when a client is gone.
    #[must_use]
    pub fn close<A: 'static>(self, handler: impl Handler<A>) -> Self {
        Self { close: erased(handler), ..self }
    }

    /// Keeps the session of a socket that was cut for this time, in whole seconds and an hour at
    /// most, so that its client can resume it at the same gateway and gets what it has missed.
    /// Messages are in an envelope then, with a number: see docs/PROTOCOL.md. `open` is not called
    /// again for it, and `close` when the time is over.
    #[must_use]
    pub fn resume(mut self, kept_time: Duration) -> Self {
        let seconds = u32::try_from(kept_time.as_secs()).unwrap_or(u32::MAX);
        self.advert.resume = seconds.min(SocketAdvert::MAX_RESUME_SECONDS);
        self
    }

    /// Lets a client that reads too slowly lose its oldest messages. Otherwise its socket is
    /// closed, with 1013.
    #[must_use]
    pub fn drop_oldest(mut self) -> Self {
        self.advert.drops_oldest = true;
        self
    }

    /// The handler of the route. `around` puts guards and layers around the one of `open`: the
    /// others are called for sockets that it has accepted.
    pub(crate) fn into_handler(
        self,
        around: impl FnOnce(Arc<dyn AnyHandler>) -> Arc<dyn AnyHandler>,
    ) -> Arc<dyn AnyHandler> {
        Arc::new(SocketHandler { open: around(self.open), message: self.message, close: self.close })
    }
}

impl fmt::Debug for Sockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sockets").field("advert", &self.advert).finish_non_exhaustive()
    }
}

/// Hands each event of a socket to its handler.
struct SocketHandler {
    open: Arc<dyn AnyHandler>,
    message: Arc<dyn AnyHandler>,
    close: Arc<dyn AnyHandler>,
}

impl SocketHandler {
    fn all(&self) -> [&dyn AnyHandler; 3] {
        [&*self.open, &*self.message, &*self.close]
    }
}

impl AnyHandler for SocketHandler {
    fn begin(&self, call: &IncomingCall<'_>) -> Result<RunningHandler, ServiceError> {
        let socket = call.client.and_then(|client| client.socket.as_ref());
        match socket.map(|socket| socket.event) {
            Some(SocketEvent::Open) => self.open.begin(call),
            Some(SocketEvent::Message) => self.message.begin(call),
            Some(SocketEvent::Close) => self.close.begin(call),
            None => Err(session::no_socket()),
        }
    }

    fn wants(&self, wants: &mut Wants) {
        wants.request();
        self.all().into_iter().for_each(|handler| handler.wants(wants));
    }

    fn missing(&self, given: &StateTypes<'_>) -> Option<Missing> {
        self.all().into_iter().find_map(|handler| handler.missing(given))
    }

    fn provides(&self) -> Option<TypeId> {
        None
    }
}
