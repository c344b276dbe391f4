//! The Distributor in figures and under faults, beside Redis, NATS and etcd where they are
//! installed.
//!
//! Measured as a user would see it: real processes, real sockets, one machine. The measured process
//! has core 0 to itself, this one and all its connections core 1, so that neither's CPU time
//! disturbs the other.
//!
//! `registry` measures the Distributor, `calls` the SDK, `gateway` the gateway, each beside its
//! competitors; `attacks` what hostile peers and clients cost. No scene decides whether a change is
//! right: that is what `tests` is for.
//!
//! ```sh
//! cargo build --profile dist -p distributor -p gateway -p bench
//! target/dist/drill fan-out --nodes 1000
//! ```
#![expect(clippy::print_stdout, reason = "it prints a table")]
#![expect(clippy::unwrap_used, reason = "a surprise voids the run")]
#![expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]

mod attacks;
mod calls;
mod daemon_process;
mod gateway;
mod http;
mod registry;
mod report;

use clap::{Parser, Subcommand};

/// Measures a Distributor, and what happens when things go wrong. Build it first: cargo build
/// --profile dist
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    scene: Scene,
}

#[derive(Clone, Debug, Subcommand)]
enum Scene {
    /// One change told to many: time until the last knows, CPU for each; beside redis, nats-server
    /// and etcd.
    FanOut {
        /// Nodes that are told.
        #[arg(long, default_value_t = 1000)]
        nodes: usize,
        /// Changes of which the median is printed.
        #[arg(long, default_value_t = 100)]
        rounds: usize,
        /// Leaves out the others.
        #[arg(long)]
        alone: bool,
    },
    /// A thousand joins a second, told to all.
    Storm {
        /// Nodes that are told.
        #[arg(long, default_value_t = 1000)]
        nodes: usize,
        /// For how long.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// Many nodes that start at once, until each knows all.
    ColdStart {
        /// How many.
        #[arg(long, default_value_t = 1000)]
        nodes: usize,
        /// Nodes of version 1.
        #[arg(long)]
        old: bool,
    },
    /// kill -9 of the Distributor, and its return.
    Restart {
        /// Nodes that come back.
        #[arg(long, default_value_t = 1000)]
        nodes: usize,
    },
    /// One in twenty nodes stops reading while others come and go.
    Frozen {
        /// Nodes.
        #[arg(long, default_value_t = 1000)]
        nodes: usize,
        /// For how long.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// What nodes that do nothing cost.
    Idle {
        /// Nodes.
        #[arg(long, default_value_t = 10_000)]
        nodes: usize,
        /// For how long.
        #[arg(long, default_value_t = 20)]
        seconds: u64,
    },
    /// One node that comes and goes ten times a second.
    Flap {
        /// Nodes that are told.
        #[arg(long, default_value_t = 100)]
        nodes: usize,
        /// For how long.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// A node that hangs; and a Distributor that gets a tenth of a core.
    Hung {
        /// Nodes.
        #[arg(long, default_value_t = 1000)]
        nodes: usize,
        /// For how long the Distributor is starved.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Calls between two nodes; beside a bare echo, and tarpc and tonic where they are built.
    Calls,
    /// The node that `calls` calls.
    #[command(hide = true)]
    CallServer {
        distributor: String,
        #[arg(default_value_t = 0)]
        work_us: u64,
    },
    /// Three times as many calls as a node can carry out.
    Overload,
    /// Calls to nodes that die, are replaced, or are slow.
    Survive {
        /// Restarts, one after the other.
        #[arg(long, default_value_t = 10)]
        restarts: usize,
    },
    /// Requests through the gateway; beside nginx and haproxy where they are installed.
    #[command(name = "door")]
    Gateway {
        /// Leaves out all but this: most, half or downloads.
        #[arg(long)]
        only: Option<String>,
    },
    /// TLS, tunnels, idle clients, a changing registry and attackers at the gateway; beside nginx
    /// and haproxy where they are installed.
    Edge {
        /// Leaves out all but this: tls, tunnel, idle, changes, soak, attack, overload or starved.
        #[arg(long)]
        only: Option<String>,
        /// Of the attacks, leaves out all but those whose name begins so.
        #[arg(long)]
        attack: Option<String>,
        /// How long the gateway is changed under load.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Peers that attack a Distributor, and callers that attack a node.
    Hostile {
        /// Leaves out all but this: distributor, node, node-memory or gateway-memory.
        #[arg(long)]
        only: Option<String>,
        /// Of the attacks, leaves out all but those whose name begins so.
        #[arg(long)]
        attack: Option<String>,
    },
    /// The node whose memory `hostile` looks at.
    #[command(hide = true)]
    LargeServer { distributor: String },
    /// The back end of `door`.
    #[command(hide = true)]
    HttpServer,
    /// What stands between clients and that back end, and does nothing else.
    #[command(hide = true)]
    Relay { back_end: std::net::SocketAddr },
    /// The server of the floor of `calls`.
    #[command(hide = true)]
    EchoServer,
    /// The service that `calls` asks through nats-server.
    #[command(hide = true)]
    NatsService { broker: std::net::SocketAddr },
    /// The server of the floor of a call that is JSON.
    #[command(hide = true)]
    JsonServer,
    /// The server of the floor that `fan-out` prints.
    #[command(hide = true)]
    FanOutFloor,
    /// The server of the floor that `idle` prints.
    #[command(hide = true)]
    Floor,
    /// All of them.
    All,
}

fn main() {
    net::raise_open_files();
    let scene = Args::parse().scene;
    daemon_process::pin_to(
        None,
        match scene {
            Scene::Floor
            | Scene::FanOutFloor
            | Scene::CallServer { .. }
            | Scene::LargeServer { .. }
            | Scene::EchoServer
            | Scene::JsonServer
            | Scene::Relay { .. } => 0,
            _ => 1,
        },
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        if matches!(scene, Scene::CallServer { .. }) {
            // It ends in order by itself.
            return play(scene).await;
        }
        let stop = net::stop_on_signals(|| std::time::Duration::from_secs(20)).unwrap();
        tokio::select! {
            () = play(scene) => {}
            // Returning ends what was started.
            () = stop.cancelled() => {}
        }
    });
}

async fn play(scene: Scene) {
    match scene {
        Scene::FanOut { nodes, rounds, alone } => registry::fan_out(nodes, rounds, alone).await,
        Scene::Storm { nodes, seconds } => registry::storm(nodes, seconds).await,
        Scene::ColdStart { nodes, old } => registry::cold_start(nodes, old).await,
        Scene::Restart { nodes } => registry::restart(nodes).await,
        Scene::Frozen { nodes, seconds } => registry::frozen(nodes, seconds).await,
        Scene::Idle { nodes, seconds } => registry::idle(nodes, seconds).await,
        Scene::Flap { nodes, seconds } => registry::flap(nodes, seconds).await,
        Scene::Hung { nodes, seconds } => registry::hung(nodes, seconds).await,
        Scene::Calls => calls::calls().await,
        Scene::CallServer { distributor, work_us } => calls::serve(distributor, work_us).await,
        Scene::Survive { restarts } => calls::survive(restarts).await,
        Scene::Gateway { only } => gateway::requests(only.as_deref()).await,
        Scene::Edge { only, attack, seconds } => gateway::edge::edge(only.as_deref(), attack.as_deref(), seconds).await,
        Scene::Hostile { only, attack } => attacks::peers::hostile(only.as_deref(), attack.as_deref()).await,
        Scene::LargeServer { distributor } => attacks::totals::serve(distributor).await,
        Scene::HttpServer => gateway::back_end::serve().await,
        Scene::Relay { back_end } => gateway::relay::serve(back_end),
        Scene::Overload => calls::overload().await,
        Scene::EchoServer => calls::serve_bytes(false).await,
        Scene::NatsService { broker } => calls::serve_nats(broker).await,
        Scene::JsonServer => calls::serve_bytes(true).await,
        Scene::FanOutFloor => registry::baseline::serve_fan_out().await,
        Scene::Floor => registry::baseline::serve().await,
        Scene::All => {
            calls::calls().await;
            calls::survive(10).await;
            calls::overload().await;
            gateway::requests(None).await;
            gateway::edge::edge(None, None, 60).await;
            attacks::peers::hostile(None, None).await;
            registry::fan_out(1000, 100, false).await;
            registry::fan_out(10_000, 20, true).await;
            registry::storm(1000, 10).await;
            registry::cold_start(1000, false).await;
            registry::cold_start(1000, true).await;
            registry::cold_start(10_000, false).await;
            registry::restart(1000).await;
            registry::restart(10_000).await;
            registry::frozen(1000, 60).await;
            registry::idle(10_000, 20).await;
            registry::flap(100, 60).await;
            registry::hung(1000, 60).await;
        }
    }
}
