//! `distributor why <node>`: asks a running Distributor what happened to a node.

use std::io::{self, Write};
use std::time::Duration;

use bytes::BytesMut;
use protocol::{Event, FrameDecoder, HISTORY_URI, Packet, write_history_question};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long the answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most bytes of an answer: two hundred events.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Prints what happened to nodes whose name, address (`host:port`) or instance is `node`; with `json` as it came.
///
/// # Errors
/// When the Distributor cannot be reached or does not answer.
pub(crate) async fn why(distributor: &str, node: &str, json: bool) -> io::Result<()> {
    let answer = timeout(PATIENCE, ask(distributor, node)).await.map_err(|_elapsed| {
        let text = format!("the Distributor at {distributor} does not answer; one older than version 2 cannot");
        io::Error::new(io::ErrorKind::TimedOut, text)
    })??;
    let mut out = io::stdout().lock();
    if json {
        return writeln!(out, "{answer}");
    }
    let events: Vec<Event> = serde_json::from_str(&answer)?;
    if events.is_empty() {
        return writeln!(out, "nothing is known of {node}: it has not been there, or too long ago");
    }
    for Event { ago, rev, name, address, event, why } in events {
        let ago = Duration::from_millis(ago).as_secs_f64();
        writeln!(out, "{ago:>9.1} s ago  {name:<16} {address:<22} {event:<10} {why}  (revision {rev})")?;
    }
    Ok(())
}

async fn ask(distributor: &str, node: &str) -> io::Result<String> {
    let unreachable = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot reach the Distributor at {distributor}: {error} (--at)"))
    };
    let mut stream = TcpStream::connect(distributor).await.map_err(unreachable)?;
    let mut question = BytesMut::new();
    write_history_question(&mut question, 1, node);
    stream.write_all(&question).await?;
    let mut decoder = FrameDecoder::new(MAX_ANSWER_BYTES);
    loop {
        while let Some(frame) = decoder.next_frame().map_err(io::Error::other)? {
            // The list that greets everybody may come first.
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
