//! The request of a gateway's client.

use std::net::IpAddr;

use crate::error::ServiceError;
use crate::handler::http::{Headers, Wants, not_http, unstated};
use crate::handler::{FromCall, IncomingCall};

/// The request of a client, for which a gateway makes the call. As an argument it refuses a call
/// that a node makes itself, with 400 `not_http`; `Option<HttpRequest>` is `None` then.
///
/// It has the header fields that the arguments of the route want, and those that
/// [`headers`](crate::NodeBuilder::headers) names. The gateway is believed, and so is any other
/// process that can connect to this node.
///
/// ```
/// use node_sdk::{HttpRequest, Node, ServiceError};
///
/// async fn echo(request: HttpRequest) -> Result<String, ServiceError> {
///     let language = request.header("accept-language").unwrap_or("any");
///     Ok(format!("{} {} in {language}", request.method(), request.path()))
/// }
///
/// let node = Node::builder("echo").route("GET/echo", echo).public().headers(["accept-language"]);
/// ```
#[derive(Clone, Debug)]
pub struct HttpRequest {
    method: String,
    target: String,
    host: String,
    is_https: bool,
    client: Option<IpAddr>,
    id: String,
    headers: Headers,
}

/// The address of the client for which a gateway makes the call: that of its connection, or what a
/// trusted proxy in front of the gateway says. As an argument it refuses a call that a node makes
/// itself, with 400 `not_http`; `Option<ClientAddress>` is `None` then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddress(pub IpAddr);

impl HttpRequest {
    /// The method, which for a route of `GET` may be `HEAD`.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The path and the query as the client has sent them.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The path as the client has sent it, with its escapes.
    pub fn path(&self) -> &str {
        self.target.split_once('?').map_or(&*self.target, |(path, _)| path)
    }

    /// The query behind `?`, with its escapes; `None` if there is none.
    pub fn query(&self) -> Option<&str> {
        self.target.split_once('?').map(|(_, query)| query)
    }

    /// The host that the client names, with a port if it names one; empty if none.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether the client speaks TLS, with the gateway or with a trusted proxy in front of it.
    pub fn is_https(&self) -> bool {
        self.is_https
    }

    /// The address of the client: see [`ClientAddress`].
    pub fn client_address(&self) -> Option<IpAddr> {
        self.client
    }

    /// The id of the request, which is also in the gateway's log.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The first value of a header field, in any case of letters.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    /// The header fields that the route wants.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }
}

impl FromCall for HttpRequest {
    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        if call.wanted.is_none() {
            return Err(unstated("HttpRequest"));
        }
        let client = call.client.ok_or_else(not_http)?;
        Ok(Self {
            method: client.method.clone().into_owned(),
            target: client.target.clone().into_owned(),
            host: client.host.clone().into_owned(),
            is_https: client.is_https,
            client: client.address.parse().ok(),
            id: client.id.clone().into_owned(),
            headers: Headers::from_call(call)?,
        })
    }

    fn wants(wants: &mut Wants) {
        wants.request();
    }
}

impl FromCall for ClientAddress {
    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        if call.wanted.is_none() {
            return Err(unstated("ClientAddress"));
        }
        let address = call.client.and_then(|client| client.address.parse().ok());
        address.map(Self).ok_or_else(not_http)
    }

    fn wants(wants: &mut Wants) {
        wants.request();
    }
}
