//~ another variant has this word
use node_sdk::{Refusal};

#[derive(Refusal)]
enum OrderError {
    #[refusal(409, "sold_out", "nothing is left")]
    SoldOut,
    #[refusal(410, "sold_out", "nothing will be there")] //~ here
    Gone,
}

fn main() {}
