//! Services that are written with the SDK, and the calls between them. No test here sends HTTP.

mod basics;
mod calls;
mod events;
mod faults;
mod layers;
mod service_macro;
mod streams;
mod test_mesh;
