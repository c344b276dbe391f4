//! A client of server-sent events, as `EventSource` of a browser.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::PATIENCE;

/// A stream of events whose data are JSON. It closes when it is dropped.
#[derive(Debug)]
pub struct EventSource {
    stream: BufReader<TcpStream>,
    /// The id of the last event that had one.
    pub last_id: String,
}

impl EventSource {
    /// Opens a stream, with the id of the last event that is known unless that is empty.
    pub async fn open(gateway: SocketAddr, path: &str, last_id: &str) -> Self {
        let mut stream = BufReader::new(TcpStream::connect(gateway).await.unwrap());
        let last = if last_id.is_empty() { String::new() } else { format!("Last-Event-ID: {last_id}\r\n") };
        let head = format!("GET {path} HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n{last}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut line = String::new();
        timeout(PATIENCE, stream.read_line(&mut line)).await.unwrap().unwrap();
        assert!(line.starts_with("HTTP/1.1 200 "), "{line}");
        Self { stream, last_id: last_id.to_owned() }
    }

    /// The next event: its name, or an empty text, and its data. `None` at the end.
    pub async fn event(&mut self) -> Option<(String, Value)> {
        let mut name = String::new();
        loop {
            let mut line = String::new();
            let read = timeout(PATIENCE, self.stream.read_line(&mut line)).await.unwrap();
            // The connection ends, or the body with its last chunk.
            if !read.is_ok_and(|bytes| bytes > 0) || line == "0\r\n" {
                return None;
            }
            // Sizes of chunks and empty lines stand between the fields.
            match line.trim_end().split_once(": ") {
                Some(("event", value)) => name = value.to_owned(),
                Some(("id", value)) => self.last_id = value.to_owned(),
                Some(("data", value)) => return Some((name, serde_json::from_str(value).unwrap())),
                Some(_) | None => {}
            }
        }
    }

    /// The data of the next event.
    pub async fn data(&mut self) -> Value {
        self.event().await.expect("an event").1
    }

    /// Waits until the gateway ends the stream.
    pub async fn ended(&mut self) {
        while self.event().await.is_some() {}
    }
}
