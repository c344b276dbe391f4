//! The session of a held socket, as an argument of its handlers.

use crate::error::ServiceError;
use crate::handler::http::Wants;
use crate::handler::{FromCall, IncomingCall};

/// The session of the socket that a call is about: an argument of the handlers of
/// [`Sockets`](crate::Sockets). Elsewhere it refuses the call with 426 `no_socket`.
///
/// Its id names the socket in the whole mesh, for [`Peers::push`](crate::Peers::push). It may be
/// stored, and told to other services. It gives its holder in the mesh the power to write to the
/// client, and a client nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Session {
    id: String,
    user: Option<String>,
}

impl Session {
    /// The id of the session.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The user that [`Welcome::user`](crate::Welcome::user) has named; `None` in `open`, which
    /// decides about that.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }
}

impl AsRef<str> for Session {
    fn as_ref(&self) -> &str {
        &self.id
    }
}

impl FromCall for Session {
    fn from_call(call: &IncomingCall<'_>) -> Result<Self, ServiceError> {
        let socket = call.client.and_then(|client| client.socket.as_ref()).ok_or_else(no_socket)?;
        let user = socket.user.clone().map(std::borrow::Cow::into_owned);
        Ok(Self { id: socket.session.clone().into_owned(), user })
    }

    fn wants(wants: &mut Wants) {
        wants.request();
    }
}

/// The error of a call that is not about a held socket.
pub(super) fn no_socket() -> ServiceError {
    ServiceError::new(426, "no_socket", "open a WebSocket, or an event stream, through a gateway that holds sockets")
}
