//! The whole mesh in one thread, from one seed: real packets between the real registry and real
//! replicas, over connections that split, stall, break, and swallow what they carry; with nodes and
//! Distributors that die and come back.
//!
//! `SIMULATION_HISTORIES=10000000 cargo test --release -p distributor simulation` runs more of them,
//! `SIMULATION_SEED=<n>` runs one again.

mod check;
mod network;
mod node;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use fastrand::Rng;
use protocol::{
    Advert, Digest, FrameDecoder, KnownNode, LEGACY_READ_BYTES, LeaveReason, ListUpdate, PING_URI, Packet,
    RegisterOptions, Registration, Replica, ResumePoint, Revision, UpdateOutcome, Version, is_copy_request, read_copy,
    write_copy, write_leave, write_list_request, write_pong, write_registration,
};

use crate::config::Config;
use crate::entries::SessionId;
use crate::peer::command::{Command, CommandReader};
use crate::peer::outbox::{Outbox, Reply, WriteStep};
use crate::registry::Registry;
use crate::registry::liveness::{ActiveTime, TICK, Verdict};
use crate::updates::budget::Budget;

/// Histories that a usual run of the tests goes through.
const HISTORIES: u64 = 100_000;
/// What happens to a mesh before it is left in peace.
const EVENTS: usize = 30;
/// In peace, everybody knows the truth after so long: a flapper's longest wait, and a reconnect.
const HEALED_AFTER: Duration = Duration::from_secs(60);
/// Peers that register what nodes do leave so long after: a flapper's longest wait is over by then.
const IMPOSTORS_STAY: Duration = Duration::from_secs(26);
/// When the system gives up a connection whose other end gives no sign of life.
const DEAD_AFTER: Duration = Duration::from_secs(4);
/// What one end of a connection takes before the other has read it.
const PIPE_BYTES: usize = 1500;

struct World {
    rng: Rng,
    now: Instant,
    epoch: u64,
    distributor: Option<SimDistributor>,
    nodes: Vec<SimNode>,
    connections: BTreeMap<u64, SimConnection>,
    next_connection: u64,
    next_instance: u64,
    /// Sessions of peers that are no nodes, and register what nodes do; and when the last of them
    /// goes.
    impostors: BTreeSet<u64>,
    impostors_go: Option<Instant>,
    peace: bool,
}

struct SimDistributor {
    registry: Registry,
    /// The state that was checked last.
    checked: Option<Revision>,
}

/// One connection with both of its ends.
struct SimConnection {
    node: usize,
    down: SimPipe,
    up: SimPipe,
    /// What either end sends vanishes, since then.
    black_hole: Option<Instant>,
    outbox: Outbox,
    commands: CommandReader,
    heard: ActiveTime,
    frames: FrameDecoder,
    node_frames: FrameDecoder,
}

/// Bytes under way.
#[derive(Default)]
struct SimPipe {
    bytes: BytesMut,
    /// Nothing arrives for now.
    is_stalled: bool,
    /// The sender has closed; the receiver finds out when it has read the rest.
    closed: Option<LeaveReason>,
}

struct SimNode {
    version: Version,
    name: String,
    port: u16,
    instance: String,
    draining: bool,
    is_up: bool,
    is_frozen: bool,
    connection: Option<u64>,
    connect_at: Instant,
    replica: Replica,
    /// What the changes that the replica names have made of nothing: calls are routed by such a
    /// table.
    table: BTreeMap<SocketAddr, KnownNode>,
    highest: Option<Revision>,
    /// It told this connection that it has a list.
    offered: bool,
    /// It hands over invented nodes when it is asked what it knows.
    lies: bool,
}

/// Where the nodes are that are invented.
const INVENTED: [u16; 2] = [666, 667];
/// Where peers are that register what nodes do.
const IMPOSTOR: u16 = 555;

fn histories() -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match number("SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIMULATION_HISTORIES").unwrap_or(HISTORIES),
    }
}

#[test]
#[expect(clippy::print_stderr, reason = "a failing history names itself")]
fn whatever_happens_everybody_knows_the_truth_in_the_end() {
    let histories = histories();
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let mine = histories.clone().filter(move |seed| seed % threads == thread);
            scope.spawn(move || {
                for seed in mine {
                    let failed = std::panic::catch_unwind(|| World::new(seed).run());
                    if let Err(panic) = failed {
                        eprintln!("history {seed} fails: SIMULATION_SEED={seed} cargo test -p distributor simulation");
                        std::panic::resume_unwind(panic);
                    }
                }
            });
        }
    });
}
