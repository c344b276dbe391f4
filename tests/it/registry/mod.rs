//! The port of the Distributor, spoken to in packets. Tests of the SDK's side of it are in `sdk`.

mod broadcast;
mod framing;
mod hostile;
mod json;
mod legacy;
mod registration;
mod scale;
mod transcript;
mod version_2;
