//! The streams to nodes that push: each brings commands, and takes reports back.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use node_sdk::gateway::{GatewayPeers, RawPart, RawReply};
use node_sdk::{CallError, Duplex, Peers};
use protocol::{PUSH_URL, PushCommand, PushHello, PushMiss, PushReport, STREAM_WINDOW};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::calls::SocketCalls;
use super::ending::HeldEnding;
use crate::sessions::HeldSessions;

/// The pause before a stream that has ended is opened again, twice as long each time.
const MIN_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// The time after which sessions that can be resumed are looked at again when none is known to end.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// The node at the end of a stream: its address and its instance.
type NodeKey = (SocketAddr, Option<String>);

/// Keeps a stream open to each node that pushes, and ends the sessions whose clients do not come
/// back. Never completes; dropping it ends the streams.
pub(crate) async fn serve_pushes(peers: Peers, sessions: Arc<HeldSessions>) {
    let calls = SocketCalls { peers: peers.clone(), sessions: Arc::clone(&sessions) };
    tokio::join!(follow_nodes(peers, &sessions), end_sessions(calls));
}

async fn follow_nodes(peers: Peers, sessions: &Arc<HeldSessions>) {
    let mut changes = peers.changes();
    let mut links: HashMap<NodeKey, AbortOnDropHandle<()>> = HashMap::new();
    while let Some(nodes) = changes.next().await {
        // A node that has left may still push until its stream ends.
        links.retain(|_, link| !link.is_finished());
        for node in nodes {
            let id = node.advert.as_ref().and_then(|advert| advert.id.clone());
            if !node.routes.iter().any(|route| route.as_str() == PUSH_URL) {
                continue;
            }
            let address = SocketAddr::new(node.host, node.port);
            links
                .entry((address, id))
                .or_insert_with(|| AbortOnDropHandle::new(start_link(peers.clone(), address, Arc::clone(sessions))));
        }
    }
}

fn start_link(peers: Peers, address: SocketAddr, sessions: Arc<HeldSessions>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut pause = MIN_PAUSE;
        // A node that is listed again, as another instance, has a task of its own.
        while peers.nodes().iter().any(|node| SocketAddr::new(node.host, node.port) == address) {
            let begin = Instant::now();
            let ended = run_link(&peers, address, &sessions).await;
            debug!(node = %address, error = ended.err().map(tracing::field::display), "a stream of pushes has ended");
            if begin.elapsed() > MAX_PAUSE {
                pause = MIN_PAUSE;
            }
            sleep(pause.mul_f64(fastrand::f64() + 0.5)).await;
            pause = (2 * pause).min(MAX_PAUSE);
        }
    })
}

/// Opens a stream, and does what comes until it ends.
async fn run_link(peers: &Peers, address: SocketAddr, sessions: &HeldSessions) -> Result<(), CallError> {
    let hello = PushHello { gateway: sessions.gateway() };
    let params = serde_json::to_string(&hello).unwrap_or_default();
    let opening = peers.probe_with(PUSH_URL, address, &params).open(STREAM_WINDOW);
    let RawReply::Stream { parts: mut commands, .. } = Box::pin(opening).await? else { return Ok(()) };
    carry_out_all(&mut commands, sessions).await
}

async fn carry_out_all(commands: &mut Duplex<RawPart>, sessions: &HeldSessions) -> Result<(), CallError> {
    let reports = commands.sender();
    while let Some(part) = commands.next().await {
        let part = part?.into_json(PUSH_URL)?;
        let report = match serde_json::from_str::<PushCommand<'_>>(part.get()) {
            Ok(command) => sessions.carry_out(&command),
            Err(error) => unreadable(part.get(), &error),
        };
        reports.send(&report).await?;
        // A command for a large group takes milliseconds.
        yield_now().await;
    }
    Ok(())
}

/// The report on a command that a later version may send.
fn unreadable(part: &str, error: &serde_json::Error) -> PushReport {
    #[derive(Default, serde::Deserialize)]
    struct Numbered {
        n: u64,
    }
    debug!(%error, "a node's push cannot be read");
    let Numbered { n } = serde_json::from_str(part).unwrap_or_default();
    PushReport { n, missed: Some(PushMiss::Unreadable), ..PushReport::default() }
}

/// Tells nodes of the sessions whose clients have not come back in time.
async fn end_sessions(calls: SocketCalls) {
    loop {
        let until = calls.sessions.next_end().map_or_else(|| Instant::now() + LOOK_INTERVAL, Instant::from_std);
        tokio::select! {
            () = sleep_until(until) => {}
            () = calls.sessions.cut.notified() => {}
        }
        for session in calls.sessions.expire(Instant::now().into_std()) {
            let calls = calls.clone();
            tokio::spawn(async move { calls.close(&session, &HeldEnding::Gone.closed()).await });
        }
    }
}
