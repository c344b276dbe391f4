//! The whole mesh in one thread, from one seed: real packets between the real registry and real
//! replicas, over connections that split, stall, break, and swallow what they carry; with nodes and
//! Distributors that die and come back.
//!
//! `SIMULATION_HISTORIES=10000000 cargo test --release -p distributor simulation` runs more of
//! them, `SIMULATION_SEED=<n>` runs one again.
//!
//! It must not use sockets, tasks or the time of the machine: a seed always gives the same history.
//! It must not import `shell`.

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
use crate::updates::budget::UpdateBudget;

/// Histories that a usual run of the tests goes through.
const HISTORIES: u64 = 100_000;
/// Faults of a mesh before the faults end.
const EVENTS: usize = 30;
/// After the faults, all nodes know the truth within this time: a flapper's longest wait, and a
/// reconnect.
const HEALED_AFTER: Duration = Duration::from_secs(60);
/// Impersonators leave this long after the faults: a flapper's longest wait is over by then.
const IMPOSTORS_STAY: Duration = Duration::from_secs(26);
/// When the system gives up a connection whose other end gives no sign of life.
const DEAD_AFTER: Duration = Duration::from_secs(4);
/// Bytes that one end of a connection takes before the other has read them.
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
    /// Sessions of impersonators, which are not nodes but register as nodes do; and when the last
    /// of them leaves.
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
    /// Since then, what either end sends is lost.
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
    /// Nothing arrives at present.
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
    /// The table that the replica's changes lead to: calls are routed by such a table.
    table: BTreeMap<SocketAddr, KnownNode>,
    highest: Option<Revision>,
    /// The connection on which it has said that it has a list.
    offered: bool,
    /// It sends invented nodes when it is asked for its copy.
    lies: bool,
}

/// Ports of invented nodes.
const INVENTED: [u16; 2] = [666, 667];
/// Ports of impersonators.
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
fn all_nodes_know_the_truth_in_the_end() {
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
