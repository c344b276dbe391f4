//! The package in JavaScript, and the services that the repository shows.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::{Process, pick_port};

/// A file of `examples/js`.
pub fn example(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/js").join(file)
}

/// A file of the package `js`.
pub fn js_file(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../js").join(file)
}

/// Starts the old-style goods service as a node of version 2, and waits until it is registered.
/// Returns its port too.
pub async fn goods(distributor: SocketAddr) -> (Process, u16) {
    goods_of_version(distributor, 2).await
}

/// Starts that service as a node of either version.
pub async fn goods_of_version(distributor: SocketAddr, version: u8) -> (Process, u16) {
    let version = version.to_string();
    let (file, port) = (example("goods.js"), pick_port());
    let (distributor, number) = (distributor.to_string(), port.to_string());
    let arguments = [file.to_str().unwrap(), "--port", &number, "--distributor", &distributor, "--version", &version];
    let service = Process::start("node", &arguments);
    service.line("registered as goods").await;
    (service, port)
}
