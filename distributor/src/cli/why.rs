//! `distributor why <node>`: asks a running Distributor what happened to a node.

use std::io::{self, Write};
use std::time::Duration;

use bytes::BytesMut;
use net::{MAX_ESCAPED_BYTES, escaped, escaped_json};
use protocol::{FrameDecoder, HISTORY_URI, HistoryEvent, Packet, write_history_request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long the response may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum bytes of a packet: two hundred events with names of version 1 nodes, which may be as
/// long as a packet (13 MB), and the list that may come before them.
const MAX_RESPONSE_BYTES: usize = 32 << 20;
/// The width of a name in columns. Longer names push the other columns aside.
const NAME_BYTES: usize = 64;

/// Prints what happened to nodes whose name, address (`host:port`) or instance is `node`; with
/// `json` as it came. Returns whether anything is known of them.
///
/// # Errors
/// When the Distributor cannot be reached or does not answer.
pub(crate) async fn why(distributor: &str, node: &str, json: bool) -> io::Result<bool> {
    let response = timeout(REQUEST_TIMEOUT, ask(distributor, node)).await.map_err(|_elapsed| {
        let text = format!(
            "the Distributor at {distributor} does not answer. One of version 1 cannot, and may have ended now that it \
             was asked: do not ask it again"
        );
        io::Error::new(io::ErrorKind::TimedOut, text)
    })??;
    let events: Vec<HistoryEvent> = serde_json::from_str(&response)?;
    let is_known = !events.is_empty();
    let text = if json { format!("{}\n", escaped_json(&response)) } else { table(node, events) };
    match io::stdout().lock().write_all(text.as_bytes()) {
        // A program that has read enough may close the pipe.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(is_known),
        result => result.map(|()| is_known),
    }
}

/// A line for each event. Names come from nodes, and are escaped.
fn table(node: &str, events: Vec<HistoryEvent>) -> String {
    if events.is_empty() {
        return format!("nothing is known of {node}: it has not registered, or too long ago\n");
    }
    let line = |HistoryEvent { ago, rev, name, address, event, why }| {
        let ago = Duration::from_millis(ago).as_secs_f64();
        let name = escaped(name, NAME_BYTES).to_string();
        let [address, event, why] = [address, event, why].map(|text| escaped(text, MAX_ESCAPED_BYTES).to_string());
        format!("{ago:>9.1} s ago  {name:<16} {address:<22} {event:<10} {why}  (revision {rev})\n")
    };
    events.into_iter().map(line).collect()
}

async fn ask(distributor: &str, node: &str) -> io::Result<String> {
    let unreachable = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot reach the Distributor at {distributor}: {error} (--at)"))
    };
    let mut stream = TcpStream::connect(distributor).await.map_err(unreachable)?;
    let mut question = BytesMut::new();
    write_history_request(&mut question, 1, node);
    stream.write_all(&question).await?;
    let mut decoder = FrameDecoder::new(MAX_RESPONSE_BYTES);
    loop {
        while let Some(frame) = decoder.next_frame().map_err(io::Error::other)? {
            // The greeting list may come first.
            if let Ok(packet) = Packet::parse(&frame)
                && packet.uri() == HISTORY_URI
                && let Some(params) = packet.params
            {
                return Ok(params.get().to_owned());
            }
        }
        if stream.read_buf(decoder.buffer()).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
