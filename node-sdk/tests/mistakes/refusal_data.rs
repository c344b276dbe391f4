//~ a variant has no data, or one `String`
use node_sdk::{Refusal};

#[derive(Refusal)]
enum OrderError {
    #[refusal(409, "sold_out")] //~ here
    SoldOut { left: u64 },
}

fn main() {}
