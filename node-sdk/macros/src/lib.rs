//! The attributes of `node-sdk`, which has their docs and exports them.

mod handler;
mod types;

use proc_macro::TokenStream;
use syn::{ItemFn, parse_macro_input};

/// Checks a handler. `node_sdk::handler` has its docs.
#[proc_macro_attribute]
pub fn handler(settings: TokenStream, function: TokenStream) -> TokenStream {
    let function = parse_macro_input!(function as ItemFn);
    handler::expand(settings.into(), &function).into()
}
