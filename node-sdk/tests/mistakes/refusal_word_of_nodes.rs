//~ nodes refuse calls with this word, before a service has seen them
use node_sdk::{Refusal};

#[derive(Refusal)]
enum OrderError {
    #[refusal(503, "overloaded", "too many orders")] //~ here
    Overloaded,
}

fn main() {}
