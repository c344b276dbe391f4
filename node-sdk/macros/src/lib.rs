//! The attributes of `node-sdk`, which has their docs and exports them.
//!
//! `#[handler]` (`node_sdk::handler`) checks that a function can be a handler. `#[service]`
//! (`node_sdk::service`) makes the routes and the client of a trait. `#[derive(Refusal)]`
//! (`node_sdk::Refusal`) makes an enum the errors of a service.
//!
//! It must not decide what a type is: it knows only the text of types. It writes checks of them,
//! which the compiler reports at the type.

mod handler;
mod refusal;
#[allow(dead_code, unreachable_pub, reason = "it is the file of `protocol`, which uses all of it")]
#[path = "../../../protocol/src/route_syntax.rs"]
mod route_syntax;
mod service;
mod types;

use proc_macro::TokenStream;
use syn::{DeriveInput, ItemFn, ItemTrait, parse_macro_input};

/// Checks a handler. `node_sdk::handler` has its docs.
#[proc_macro_attribute]
pub fn handler(settings: TokenStream, function: TokenStream) -> TokenStream {
    let function = parse_macro_input!(function as ItemFn);
    handler::expand(settings.into(), &function).into()
}

/// Makes a service and its client of a trait. `node_sdk::service` has its docs.
#[proc_macro_attribute]
pub fn service(settings: TokenStream, service: TokenStream) -> TokenStream {
    let service = parse_macro_input!(service as ItemTrait);
    service::expand(settings.into(), &service).into()
}

/// Makes an enum the errors of a service. `node_sdk::Refusal` has its docs.
#[proc_macro_derive(Refusal, attributes(refusal))]
pub fn refusal(input: TokenStream) -> TokenStream {
    refusal::expand(&parse_macro_input!(input as DeriveInput)).into()
}
