//! Simulates a whole mesh in one thread. The real registry and real replicas exchange real packets
//! over simulated connections. A random number generator decides what fails: connections split,
//! stall, break and lose bytes; nodes and Distributors die and come back. One seed always gives the
//! same history.
//!
//! `SIMULATION_HISTORIES=10000000 cargo test --release -p distributor simulation` runs more
//! histories, and `SIMULATION_SEED=<n>` repeats one.
//!
//! It must not use sockets, tasks or the clock of the machine: a seed could then give two
//! histories. It must not import `shell`.

mod asking;
mod check;
mod crowd;
mod network;
mod node;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use fastrand::Rng;
use protocol::{
    Advert, Digest, FrameDecoder, KnownNode, LEGACY_READ_BYTES, LeaveReason, ListUpdate, NEEDED_URI, PING_URI, Packet,
    RegisterOptions, Registration, Replica, Response, ResumePoint, Revision, Route, UnpackedBlocks, UpdateOutcome,
    Version, is_copy_request, read_copy, write_copy, write_leave, write_list_request, write_pong, write_refusal,
    write_registration,
};

use crate::config::Config;
use crate::entries::SessionId;
use crate::peer::command::{Command, CommandReader};
use crate::peer::notices::NoticeKind;
use crate::peer::outbox::{Outbox, Reply, WriteStep};
use crate::registry::Registry;
use crate::registry::liveness::{ActiveTime, TICK, Verdict};
use crate::simulation::asking::SimAsking;
use crate::updates::budget::UpdateBudget;

/// Histories in a usual run of the tests.
const HISTORIES: u64 = 100_000;
/// Events in one history: faults, and recoveries from them. After these, all faults end.
const EVENTS: usize = 30;
/// How long after the faults all nodes must know the truth: as long as a node that flaps waits at
/// most, and then a reconnect.
const HEALED_AFTER: Duration = Duration::from_secs(60);
/// How long after the faults impersonators leave. A node that flaps waits no longer than this.
const IMPOSTOR_STAY_TIME: Duration = Duration::from_secs(26);
/// The time after which the system gives up a connection whose other end is silent.
const DEAD_AFTER: Duration = Duration::from_secs(4);
/// Bytes that a connection accepts before the other end reads.
const PIPE_BYTES: usize = 1500;

struct World {
    rng: Rng,
    config: Config,
    now: Instant,
    epoch: u64,
    distributor: Option<SimDistributor>,
    nodes: Vec<SimNode>,
    connections: BTreeMap<u64, SimConnection>,
    next_connection: u64,
    next_instance: u64,
    /// Sessions of impersonators: they are not nodes, but register with a node's instance id. After
    /// the faults, the time at which all of them leave.
    impostors: BTreeSet<u64>,
    impostors_go: Option<Instant>,
    /// Whether the faults have ended.
    is_healing: bool,
}

struct SimDistributor {
    registry: Registry,
    /// The last revision that was checked.
    checked: Option<Revision>,
}

/// One connection with both of its ends.
struct SimConnection {
    node: usize,
    down: SimPipe,
    up: SimPipe,
    /// Since when all bytes are lost, in both directions.
    black_hole: Option<Instant>,
    outbox: Outbox,
    /// Whether the node is told of changes.
    follows: bool,
    commands: CommandReader,
    heard: ActiveTime,
    frames: FrameDecoder,
    node_frames: FrameDecoder,
}

/// The bytes under way in one direction of a connection.
#[derive(Default)]
struct SimPipe {
    bytes: BytesMut,
    /// Whether no bytes arrive at present.
    is_stalled: bool,
    /// The sender has closed. The receiver finds out when it has read the rest.
    closed: Option<LeaveReason>,
}

struct SimNode {
    version: Version,
    name: String,
    port: u16,
    instance: String,
    /// What it offers.
    urls: Vec<&'static str>,
    /// `None` of a node that is told of all others.
    asking: Option<SimAsking>,
    is_draining: bool,
    is_up: bool,
    is_frozen: bool,
    connection: Option<u64>,
    connect_at: Instant,
    replica: Replica,
    /// A table that is kept up to date by the replica's changes, as a real routing table is.
    table: BTreeMap<SocketAddr, KnownNode>,
    /// The highest revision that it has known.
    highest: Option<Revision>,
    /// Whether the node said that it has a list when it connected.
    offered: bool,
    /// Whether the node sends invented nodes when it is asked for its copy of the list.
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
