//! Measures the Distributor, the SDK and the gateway, in good times and under faults, beside their
//! competitors where these are installed.
//!
//! Everything is real: processes, sockets, one machine. The measured process has core 0 to itself.
//! This process, with all its connections, has core 1, so that neither takes the other's CPU time.
//!
//! A *scene* is one measurement with its table. The folder `registry` has the scenes of the
//! Distributor, `calls` those of the SDK, `gateway` and `push` those of the gateway, and `attacks`
//! those with hostile peers and clients. No scene decides whether a change is right: that is what
//! `tests` is for.
//!
//! ```sh
//! cargo build --profile dist -p distributor -p gateway -p bench
//! target/dist/drill fan-out --nodes 1000
//! ```
#![expect(clippy::print_stdout, reason = "it prints a table")]
#![expect(clippy::unwrap_used, reason = "what goes wrong voids the run")]
#![expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]

mod attacks;
mod calls;
mod daemon_process;
mod gateway;
mod http;
mod partial_view;
mod push;
mod registry;
mod report;

use clap::{Parser, Subcommand};

/// Measures the Distributor, the SDK and the gateway. Build them first: cargo build --profile dist
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    scene: Scene,
}

#[derive(Clone, Debug, Subcommand)]
enum Scene {
    /// One change is told to many nodes: time until the last one knows it, and CPU for each; beside
    /// redis, nats-server and etcd.
    FanOut {
        /// Nodes that are told.
        #[arg(long, default_value_t = 1000)]
        nodes: usize,
        /// Changes, of which the median is printed.
        #[arg(long, default_value_t = 100)]
        rounds: usize,
        /// Whether to leave out redis, nats-server and etcd.
        #[arg(long)]
        alone: bool,
    },
    /// A thousand nodes join each second, and all nodes are told.
    Storm {
        /// Nodes that are told.
        #[arg(long, default_value_t = 1000)]
        nodes: usize,
        /// How long it lasts.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// Many nodes start at once: time until each of them knows all.
    ColdStart {
        /// How many nodes start.
        #[arg(long, default_value_t = 1000)]
        nodes: usize,
        /// Whether the nodes speak version 1.
        #[arg(long = "old")]
        is_legacy: bool,
        /// Each node uses the urls of this many others, and is told of these.
        #[arg(long, conflicts_with = "is_legacy")]
        needs: Option<usize>,
    },
    /// A node that is told what it uses, in a large mesh: its CPU and memory beside those of one
    /// that is told of all, and its first call of a url.
    PartialView {
        /// How many other nodes are registered.
        #[arg(long, default_value_t = 10_000)]
        nodes: usize,
        /// How long 100 nodes a second come and go.
        #[arg(long, default_value_t = 30)]
        seconds: u64,
    },
    /// A node that `partial-view` measures: it waits until it knows these urls, or this many nodes.
    #[command(hide = true)]
    PartialViewNode { distributor: String, known: usize, urls: Vec<String> },
    /// The node that `partial-view` calls.
    #[command(hide = true)]
    PartialViewServer { distributor: String },
    /// The Distributor is killed (kill -9) and started again.
    Restart {
        /// Nodes that come back.
        #[arg(long, default_value_t = 1000)]
        nodes: usize,
    },
    /// One node in twenty stops reading while others come and go.
    Frozen {
        /// How many nodes are told.
        #[arg(long, default_value_t = 1000)]
        nodes: usize,
        /// How long it lasts.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// The cost of idle nodes to the Distributor.
    Idle {
        /// How many nodes are registered.
        #[arg(long, default_value_t = 10_000)]
        nodes: usize,
        /// How long they are watched.
        #[arg(long, default_value_t = 20)]
        seconds: u64,
    },
    /// One node comes and goes ten times a second.
    Flap {
        /// Nodes that are told.
        #[arg(long, default_value_t = 100)]
        nodes: usize,
        /// How long it lasts.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// A node hangs; then the Distributor gets only a tenth of a core.
    Hung {
        /// How many nodes are registered.
        #[arg(long, default_value_t = 1000)]
        nodes: usize,
        /// How long the Distributor is starved.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Calls between two nodes; beside a bare echo, nats-server, and tarpc and tonic where they are
    /// built.
    Calls,
    /// The node that the scenes of calls and of the gateway call.
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
        /// How many restarts, one after the other.
        #[arg(long, default_value_t = 10)]
        restarts: usize,
    },
    /// Requests through the gateway; beside nginx, haproxy, caddy and envoy where they are
    /// installed.
    #[command(alias = "door")]
    Gateway {
        /// Runs only this part: most, half or downloads.
        #[arg(long)]
        only: Option<String>,
    },
    /// Uploads and downloads of 100 MB through the gateway, of a packet node and of an HTTP server.
    Files,
    /// The node of `files`.
    #[command(hide = true)]
    FileNode { distributor: String },
    /// The HTTP server of `files`.
    #[command(hide = true)]
    FileServer,
    /// TLS, tunnels, idle clients, a changing registry, attackers and overload at the gateway;
    /// beside nginx and haproxy where they are installed.
    Edge {
        /// Runs only this part: tls, tunnel, idle, changes, soak, attack, overload or starved.
        #[arg(long)]
        only: Option<String>,
        /// Runs only the attacks whose names begin with this.
        #[arg(long)]
        attack: Option<String>,
        /// How long `soak` changes the gateway under load.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Pushes to one of many WebSockets on two gateways, and to half of them: time, CPU, and the
    /// memory of an idle socket. It needs three descriptors for each socket.
    Push {
        /// How many sockets there are.
        #[arg(long, default_value_t = 20_000)]
        sockets: usize,
    },
    /// Peers that attack a Distributor, and callers that attack a node.
    Hostile {
        /// Runs only this part: distributor, node, node-memory or gateway-memory.
        #[arg(long)]
        only: Option<String>,
        /// Runs only the attacks whose names begin with this.
        #[arg(long)]
        attack: Option<String>,
    },
    /// The node whose memory `hostile` measures.
    #[command(hide = true)]
    MemoryNode { distributor: String },
    /// The HTTP server behind the gateway, at a Unix socket, too, if its path is given.
    #[command(hide = true)]
    HttpServer { socket: Option<std::path::PathBuf> },
    /// A floor for the gateway: passes bytes on between clients and that server.
    #[command(hide = true)]
    Relay { back_end: std::net::SocketAddr },
    /// A floor for the gateway: answers clients by itself.
    #[command(hide = true)]
    Answerer,
    /// A floor for `calls`: returns the bytes that it reads.
    #[command(hide = true)]
    EchoServer,
    /// The service that `calls` reaches through nats-server.
    #[command(hide = true)]
    NatsService { broker: std::net::SocketAddr },
    /// A floor for `calls`: reads JSON and writes it back.
    #[command(hide = true)]
    JsonServer,
    /// The floor of `fan-out`: sends the same bytes to all its clients.
    #[command(hide = true)]
    FanOutFloor,
    /// The floor of `idle`: only pings its clients.
    #[command(hide = true)]
    PingFloor,
    /// Runs all scenes.
    All,
}

fn main() {
    net::raise_open_files();
    let scene = Args::parse().scene;
    daemon_process::pin_to(
        None,
        match scene {
            Scene::PingFloor
            | Scene::FanOutFloor
            | Scene::CallServer { .. }
            | Scene::PartialViewNode { .. }
            | Scene::PartialViewServer { .. }
            | Scene::MemoryNode { .. }
            | Scene::EchoServer
            | Scene::JsonServer
            | Scene::Relay { .. }
            | Scene::Answerer => 0,
            _ => 1,
        },
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        if matches!(scene, Scene::CallServer { .. }) {
            // It handles signals itself, and stops in order.
            return play(scene).await;
        }
        let stop = net::stop_on_signals(|| std::time::Duration::from_secs(20)).unwrap();
        tokio::select! {
            () = play(scene) => {}
            // Returning kills the processes that were started.
            () = stop.cancelled() => {}
        }
    });
}

async fn play(scene: Scene) {
    match scene {
        Scene::FanOut { nodes, rounds, alone } => registry::fan_out(nodes, rounds, alone).await,
        Scene::Storm { nodes, seconds } => registry::storm(nodes, seconds).await,
        Scene::ColdStart { nodes, is_legacy, needs } => registry::cold_start(nodes, is_legacy, needs).await,
        Scene::PartialView { nodes, seconds } => partial_view::partial_view(nodes, seconds).await,
        Scene::PartialViewNode { distributor, known, urls } => partial_view::follow(distributor, known, &urls).await,
        Scene::PartialViewServer { distributor } => partial_view::serve(distributor).await,
        Scene::Restart { nodes } => registry::restart(nodes).await,
        Scene::Frozen { nodes, seconds } => registry::frozen(nodes, seconds).await,
        Scene::Idle { nodes, seconds } => registry::idle(nodes, seconds).await,
        Scene::Flap { nodes, seconds } => registry::flap(nodes, seconds).await,
        Scene::Hung { nodes, seconds } => registry::hung(nodes, seconds).await,
        Scene::Calls => calls::calls().await,
        Scene::CallServer { distributor, work_us } => calls::serve(distributor, work_us).await,
        Scene::Survive { restarts } => calls::survive(restarts).await,
        Scene::Gateway { only } => gateway::requests(only.as_deref()).await,
        Scene::Files => gateway::files::files().await,
        Scene::FileNode { distributor } => gateway::files::serve_packets(distributor).await,
        Scene::FileServer => gateway::files::serve_http().await,
        Scene::Edge { only, attack, seconds } => gateway::edge::edge(only.as_deref(), attack.as_deref(), seconds).await,
        Scene::Push { sockets } => push::push(sockets).await,
        Scene::Hostile { only, attack } => attacks::peers::hostile(only.as_deref(), attack.as_deref()).await,
        Scene::MemoryNode { distributor } => attacks::totals::serve(distributor).await,
        Scene::HttpServer { socket } => gateway::back_end::serve(socket.as_deref()).await,
        Scene::Relay { back_end } => gateway::relay::serve(back_end),
        Scene::Answerer => gateway::answerer::serve(),
        Scene::Overload => calls::overload().await,
        Scene::EchoServer => calls::serve_bytes(false).await,
        Scene::NatsService { broker } => calls::serve_nats(broker).await,
        Scene::JsonServer => calls::serve_bytes(true).await,
        Scene::FanOutFloor => registry::baseline::serve_fan_out().await,
        Scene::PingFloor => registry::baseline::serve().await,
        Scene::All => {
            calls::calls().await;
            calls::survive(10).await;
            calls::overload().await;
            gateway::requests(None).await;
            gateway::files::files().await;
            gateway::edge::edge(None, None, 60).await;
            push::push(20_000).await;
            attacks::peers::hostile(None, None).await;
            registry::fan_out(1000, 100, false).await;
            registry::fan_out(10_000, 20, true).await;
            registry::storm(1000, 10).await;
            registry::cold_start(1000, false, None).await;
            registry::cold_start(1000, true, None).await;
            registry::cold_start(10_000, false, None).await;
            registry::cold_start(10_000, false, Some(10)).await;
            partial_view::partial_view(10_000, 30).await;
            registry::restart(1000).await;
            registry::restart(10_000).await;
            registry::frozen(1000, 60).await;
            registry::idle(10_000, 20).await;
            registry::flap(100, 60).await;
            registry::hung(1000, 60).await;
        }
    }
}
