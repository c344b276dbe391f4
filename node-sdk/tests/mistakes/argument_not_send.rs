//~ future cannot be sent between threads safely
//~ which is not `Send`
// What an argument keeps over an `.await` goes to other threads with it.
use std::rc::Rc;

use node_sdk::{AsyncFromCall, Peers, ServiceError};

struct User;

impl AsyncFromCall for User {
    type Arguments = Peers;

    async fn from_arguments(peers: Peers) -> Result<Self, ServiceError> {
        let id = Rc::new(7);
        peers.call::<()>(&format!("GET/users/{id}"), &()).await?;
        drop(id);
        Ok(Self)
    }
}

fn main() {}
