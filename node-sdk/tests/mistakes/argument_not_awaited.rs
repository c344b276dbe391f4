//~ `User` cannot be an argument of a handler
//~ one that implements `AsyncFromCall` is `Awaited<T>`
// Write `Awaited(user): Awaited<User>`.
use node_sdk::{AsyncFromCall, Peers, ServiceError, handler};

struct User;

impl AsyncFromCall for User {
    type Arguments = Peers;

    async fn from_arguments(_peers: Peers) -> Result<Self, ServiceError> {
        Ok(Self)
    }
}

#[handler]
async fn greet(
    _user: User, //~ here
) -> Result<(), ServiceError> {
    Ok(())
}

fn main() {}
