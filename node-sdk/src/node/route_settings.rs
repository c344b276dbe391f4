//! The settings of one route, which stand behind it in the builder.

use crate::node::NodeBuilder;
#[cfg(feature = "schema")]
use crate::typed::schema::RouteSchema;

impl NodeBuilder {
    /// Makes the last route public: gateways answer clients with it. Other routes are internal:
    /// nodes can call them, and to clients they do not exist.
    ///
    /// ```no_run
    /// # use node_sdk::{Node, ServiceError};
    /// # async fn list() -> Result<(), ServiceError> { Ok(()) }
    /// # async fn reserve() -> Result<(), ServiceError> { Ok(()) }
    /// let node = Node::builder("goods")
    ///     .route("GET/goods", list)
    ///     .public()
    ///     .route("POST/goods/reserve", reserve);
    /// ```
    pub fn public(mut self) -> Self {
        match self.routes.last_mut() {
            Some(route) => route.advert.public = true,
            None => self.misplaced = Some("public"),
        }
        self
    }

    /// Lets the last route read these header fields of a client's request, beside those that its
    /// arguments want: [`Headers`](crate::Headers) and [`HttpRequest`](crate::HttpRequest) have
    /// them. Gateways send a node no others. 32 fields at most, in any case of letters.
    ///
    /// ```
    /// use node_sdk::{Headers, Node, Params, ServiceError};
    ///
    /// async fn pay(headers: Headers, Params(amount): Params<u64>) -> Result<u64, ServiceError> {
    ///     match headers.get("idempotency-key") {
    ///         Some(key) => Ok(amount + key.len() as u64),
    ///         None => Err(ServiceError::bad_request("no_key", "send an Idempotency-Key")),
    ///     }
    /// }
    ///
    /// let node = Node::builder("pay").route("POST/pay", pay).public();
    /// let node = node.headers(["Idempotency-Key"]);
    /// ```
    pub fn headers<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        match self.routes.last_mut() {
            Some(route) => {
                route.wants.request();
                names.into_iter().for_each(|name| route.wants.header(name));
            }
            None => self.misplaced = Some("headers"),
        }
        self
    }

    /// Maximum bytes of the body of a client's request to the last route. A gateway refuses a
    /// larger one with 413, before it has read it. Its own limit (`max_body_bytes`) holds, too, and
    /// alone if none is set. While nodes with several limits are there, the largest holds.
    ///
    /// ```
    /// # use node_sdk::{Node, ServiceError};
    /// # async fn comment() -> Result<(), ServiceError> { Ok(()) }
    /// let node = Node::builder("blog").route("POST/comments", comment).public().max_body(10_000);
    /// ```
    pub fn max_body(mut self, bytes: u64) -> Self {
        match self.routes.last_mut() {
            Some(route) => route.advert.max_body = Some(bytes),
            None => self.misplaced = Some("max_body"),
        }
        self
    }

    /// How many calls of the last route may run at a time, over all callers. Further calls are
    /// answered at once with 503 `overloaded`, and callers try another node. Events, and other
    /// calls without a response, wait for their turn, 256 at most; further ones are lost, which is
    /// a warning in the log and counts among [`Node::lost_events`](crate::Node::lost_events).
    ///
    /// ```
    /// # use node_sdk::{Node, ServiceError};
    /// # async fn render() -> Result<(), ServiceError> { Ok(()) }
    /// let node = Node::builder("reports").route("GET/reports/{id}", render).max_concurrency(4);
    /// ```
    pub fn max_concurrency(mut self, calls: usize) -> Self {
        match self.routes.last_mut() {
            Some(route) => route.max_concurrency = Some(calls),
            None => self.misplaced = Some("max_concurrency"),
        }
        self
    }

    /// Never answers calls of the last route, even if they ask for it: for routes that must stay
    /// silent, such as a log that version 1 nodes write to.
    pub fn one_way(mut self) -> Self {
        match self.routes.last_mut() {
            Some(route) => route.one_way = true,
            None => self.misplaced = Some("one_way"),
        }
        self
    }

    /// Finishes calls of the last route although their callers go, for 30 s at most. Their answers
    /// go nowhere then. For work that must not stop halfway although its method is idempotent
    /// (`GET`, `HEAD`, `PUT`, `DELETE`, `OPTIONS`), or although a caller says that it is
    /// ([`Call::idempotent`](crate::Call::idempotent)); any other is finished in any case. An open
    /// stream ends with its caller.
    ///
    /// ```
    /// use node_sdk::{Node, Path, Peers, ServiceError};
    ///
    /// async fn replace(Path(id): Path<u64>, peers: Peers) -> Result<(), ServiceError> {
    ///     peers.call::<()>("POST/stock/take", &id).await?;
    ///     Ok(peers.call("POST/stock/put", &id).await?)
    /// }
    ///
    /// let node = Node::builder("goods").route("PUT/goods/{id}", replace).to_the_end();
    /// ```
    pub fn to_the_end(mut self) -> Self {
        match self.routes.last_mut() {
            Some(route) => route.to_the_end = true,
            None => self.misplaced = Some("to_the_end"),
        }
        self
    }

    /// States the types of the arguments and of the result of the last route, for the feature
    /// `schema`. The arguments are those of [`Params`](crate::Params), with the parameters of the
    /// path; `()` if there are none. Gateways show them to operators in an OpenAPI document. They
    /// are not registered: the node tells them to those who ask, at an internal route.
    ///
    /// ```
    /// # use node_sdk::{Created, Node, Params, ServiceError};
    /// #[derive(serde::Deserialize, schemars::JsonSchema)]
    /// struct NewGood {
    ///     name: String,
    /// }
    ///
    /// async fn add(Params(good): Params<NewGood>) -> Result<u64, ServiceError> {
    ///     Ok(good.name.len() as u64)
    /// }
    ///
    /// let node = Node::builder("goods").route("POST/goods", add).public();
    /// let node = node.schema::<NewGood, u64>();
    /// ```
    #[cfg(feature = "schema")]
    pub fn schema<In: schemars::JsonSchema, Out: schemars::JsonSchema>(self) -> Self {
        self.described(RouteSchema::default().params::<In>().result::<Out>())
    }

    /// Describes the last route, as `#[service(schema)]` does.
    #[cfg(feature = "schema")]
    #[doc(hidden)]
    pub fn described(mut self, schema: RouteSchema) -> Self {
        match self.routes.len().checked_sub(1) {
            Some(last) => self.schemas.push((last, schema)),
            None => self.misplaced = Some("schema"),
        }
        self
    }
}
