//! A node of version 1 that the test plays by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::{Cluster, Listener, Peer};

/// A node made of raw sockets that offers `GET/x` and `POST/x` in version 1.
#[derive(Debug)]
pub struct RawNode {
    /// Accepts its callers.
    pub listener: Listener,
    /// The registration of the node, which ends when this is dropped.
    pub registered: Peer,
}

impl RawNode {
    /// Listens on a port of its own, and registers.
    pub async fn join(cluster: &Cluster) -> Self {
        let listener = Listener::bind().await;
        let registered = Self::register(cluster, listener.port()).await;
        Self { listener, registered }
    }

    /// Registers a node that listens on `port`.
    pub async fn register(cluster: &Cluster, port: u16) -> Peer {
        let mut registered = cluster.peer().await;
        registered.register_with(json!({ "port": port, "name": "raw", "urls": ["GET/x", "POST/x"] })).await;
        registered.list_with("raw").await;
        registered
    }

    /// Answers every call from now on.
    pub fn answer_all(self) {
        tokio::spawn(async move {
            let _registered = self.registered;
            loop {
                let mut caller = self.listener.accept().await;
                tokio::spawn(async move {
                    while let Some(call) = caller.next().await {
                        caller.send_packet(&answer_to(&call)).await;
                    }
                });
            }
        });
    }

    /// Breaks every connection on which a call comes, and counts the calls.
    pub fn reset_all(self, calls: Arc<AtomicUsize>) {
        tokio::spawn(async move {
            let _registered = self.registered;
            loop {
                let mut caller = self.listener.accept().await;
                let calls = Arc::clone(&calls);
                tokio::spawn(async move {
                    if caller.next().await.is_some() {
                        calls.fetch_add(1, Ordering::Relaxed);
                        caller.reset();
                    }
                });
            }
        });
    }
}

/// The answer of a node of version 1 to a call: its `n`.
pub fn answer_to(call: &Value) -> Value {
    json!({ "key": call["params"]["key"], "errorcode": 0, "errormessage": "success", "results": call["params"]["n"] })
}
