//~ an error has a status of 400 to 599
use node_sdk::{Refusal};

#[derive(Refusal)]
enum OrderError {
    #[refusal(204, "sold_out", "nothing is left")] //~ here
    SoldOut,
}

fn main() {}
