//! Calls: their arguments, their results, what they hand down, and how they end.

mod arguments;
mod call_options;
mod context;
mod finishing;
mod handlers;
mod side_by_side;
mod streams;
