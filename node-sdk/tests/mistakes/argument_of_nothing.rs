//~ `u64` cannot be an argument of a handler
//~ a type of your own is one if it implements `FromCall`
// An argument is made of other arguments: `type Arguments = Path<u64>`.
use node_sdk::{AsyncFromCall, ServiceError};

struct User;

impl AsyncFromCall for User {
    type Arguments = u64;

    async fn from_arguments(_id: u64) -> Result<Self, ServiceError> {
        Ok(Self)
    }
}

fn main() {}
