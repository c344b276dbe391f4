//! Routes whose sockets gateways hold, and pushes to their clients.

use crate::handler::sockets::Sockets;
use crate::node::NodeBuilder;

impl NodeBuilder {
    /// Offers `route`, such as `GET/chat/{room}`, as one of held sockets: clients come by
    /// WebSocket, or by an event stream (`Accept: text/event-stream`), and stay with the gateway.
    /// The node is called for each event, and [pushes](Self::pushes) to any client. Guards and
    /// layers stand around `open`, and not around the others, which are called for sockets that it
    /// has accepted. Make the route [`public`](Self::public).
    ///
    /// ```
    /// use node_sdk::{Node, ServiceError, Sockets, Welcome};
    ///
    /// async fn open() -> Result<Welcome<&'static str>, ServiceError> {
    ///     Ok(Welcome::new().group("news").messages(["hello"]))
    /// }
    ///
    /// let node = Node::builder("news").sockets("GET/news", Sockets::open(open)).public();
    /// ```
    pub fn sockets(mut self, route: &str, sockets: Sockets) -> Self {
        let advert = sockets.advert;
        let handler = sockets.into_handler(|open| self.layered(open));
        self.push_route(route.to_owned(), handler, false);
        if let Some(route) = self.routes.last_mut() {
            route.advert.socket = Some(advert);
        }
        self.pushes()
    }

    /// Lets the node push to clients whose sockets gateways hold:
    /// [`Peers::push`](crate::Peers::push) and the functions beside it. Each gateway opens a stream
    /// to it. A node with [`sockets`](Self::sockets) needs not say so.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let node = node_sdk::Node::builder("billing").pushes().start().await?;
    /// node.peers().push_user("7", &"your bill is ready").await?;
    /// # Ok(()) }
    /// ```
    pub fn pushes(mut self) -> Self {
        self.pushes = true;
        self
    }
}
