//! The whole shop in one process: Distributor, gateway, and every service several times.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use futures::future::join_all;
use net::{
    LineWriter, LogFormat, LogLevel, bind, exit_code, init_log, listen_address, raise_open_files, stop_on_signals,
};
use node_sdk::{Node, NodeBuilder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::database::Database;
use crate::{goods, members, purchases};

/// Runs Distributor, gateway and three services in one process, until Ctrl-C.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 stopped by a signal, 2 bad command line, 3 port in use, 4 cannot listen, 1 other."
)]
struct ShopArgs {
    /// How many of each service.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=100))]
    instances: u16,
    /// Address of the gateway.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8000", value_parser = listen_address)]
    listen: SocketAddr,
    /// Address of the Distributor.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9000", value_parser = listen_address)]
    distributor: SocketAddr,
    /// Address of the gateway for operators, `off` for none. Unless given, 127.0.0.1:8001, or none
    /// if that is taken.
    #[arg(long, value_name = "ADDRESS", value_parser = admin_address)]
    admin: Option<ShopAdmin>,
    /// Folder of the databases; a temporary one, removed at the end, unless given.
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Form of the log on standard error.
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
    /// off, error, warn, info, debug, trace, or levels per module.
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    log_level: LogLevel,
}

/// Where operators ask the gateway, if anywhere.
#[derive(Clone, Copy, Debug)]
struct ShopAdmin(Option<SocketAddr>);

fn admin_address(text: &str) -> Result<ShopAdmin, String> {
    if text == "off" { Ok(ShopAdmin(None)) } else { listen_address(text).map(|address| ShopAdmin(Some(address))) }
}

/// A service's tables, and its node once it has a database.
type Service = (&'static str, &'static str, fn(Database) -> NodeBuilder);

const SERVICES: [Service; 3] = [
    ("members", members::TABLES, members::node),
    ("goods", goods::TABLES, goods::node),
    ("purchases", purchases::TABLES, purchases::node),
];

/// Where operators ask the gateway unless told otherwise, as with the program `gateway`.
const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8001);
/// How long everything may take to find each other on one machine.
const OPENING_TIME: Duration = Duration::from_secs(10);
/// How long a terminal that does not take the last line may delay the end.
const LAST_LINE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long closing may take: half a minute of the gateway's, twelve seconds of a node's, and some
/// more.
const MAX_STOP_TIME: Duration = Duration::from_secs(50);

/// Runs the program: opens the shop, tells how to use it, closes it on a signal.
pub fn main() -> ExitCode {
    let args = ShopArgs::parse();
    let _log = init_log(args.log_format, &args.log_level);
    raise_open_files();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit_code(&*error),
    }
}

fn run(args: &ShopArgs) -> Result<(), Box<dyn Error>> {
    // Removed when this function ends, however it does.
    let temporary = tempfile::Builder::new().prefix("shop-").tempdir()?;
    let data = args.data.as_deref().unwrap_or_else(|| temporary.path());
    std::fs::create_dir_all(data)
        .map_err(|error| format!("cannot use the folder {}: {error}; choose another with --data", data.display()))?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(open(args, data))
}

async fn open(args: &ShopArgs, data: &Path) -> Result<(), Box<dyn Error>> {
    let stop = stop_on_signals(|| MAX_STOP_TIME)?;
    // The gateway goes first and the Distributor last, so that what is in flight still finds its
    // way.
    let (stop_gateway, stop_distributor) = (CancellationToken::new(), CancellationToken::new());
    let (registry, gateway) = (bind(args.distributor)?, bind(args.listen)?);
    let (registry_address, gateway_address) = (registry.local_addr()?, gateway.local_addr()?);
    let admin = match args.admin {
        Some(ShopAdmin(address)) => address.map(bind).transpose().map_err(|error| error.set_by("--admin"))?,
        None => bind(DEFAULT_ADMIN).ok(),
    };
    let admin_address = admin.as_ref().map(TcpListener::local_addr).transpose()?;

    let config = distributor::Config::default();
    let distributor = tokio::spawn(distributor::serve(vec![registry], config, stop_distributor.clone()));
    let mut nodes = Vec::new();
    for (name, tables, node) in SERVICES {
        for _ in 0..args.instances {
            let database = Database::open(&data.join(format!("{name}.db")), tables)?;
            nodes.push((name, node(database).distributor(registry_address.to_string()).start().await?));
        }
    }
    let config = gateway::Config { distributor: registry_address.to_string(), ..gateway::Config::default() };
    let (_sender, config) = watch::channel(Arc::new(config));
    let listeners = gateway::Listeners { http: vec![gateway], admin, ..gateway::Listeners::default() };
    let stop_all = gateway::Stop { drain: stop_gateway.clone(), ..gateway::Stop::default() };
    let gateway = tokio::spawn(gateway::serve_all(listeners, config, stop_all));

    let ready = async {
        for path in ["/members", "/goods", "/purchases"] {
            while !answers(gateway_address, path).await {
                sleep(Duration::from_millis(20)).await;
            }
        }
    };
    tokio::select! {
        ready = timeout(OPENING_TIME, ready) => ready.map_err(|_| "the services did not find each other in 10 s")?,
        () = stop.cancelled() => {}
    }
    // Standard output may be closed, or a pipe that is not read: nothing waits for it.
    let screen = LineWriter::start("screen", io::stdout(), Duration::ZERO, |_lost| {})?;
    if !stop.is_cancelled() {
        let addresses = ShopAddresses { distributor: registry_address, gateway: gateway_address, admin: admin_address };
        screen.push(welcome(addresses, &nodes, data, args.data.is_none()));
        stop.cancelled().await;
    }
    let is_watched = io::stdout().is_terminal();
    if is_watched {
        screen.push("\nClosing: requests in flight finish. Ctrl-C again ends it at once.\n".to_owned());
    }

    stop_gateway.cancel();
    gateway.await??;
    join_all(nodes.into_iter().map(|(_, node)| node.stop())).await;
    stop_distributor.cancel();
    distributor.await?;
    if is_watched {
        screen.push("Closed.\n".to_owned());
    }
    tokio::task::spawn_blocking(move || screen.flush(LAST_LINE_TIMEOUT)).await?;
    Ok(())
}

/// Whether the gateway has a way to what answers `GET path`.
async fn answers(gateway: SocketAddr, path: &str) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(gateway).await?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        io::Result::Ok(answer.starts_with("HTTP/1.1 200 "))
    };
    ask.await.unwrap_or(false)
}

/// Where the parts of the shop are.
#[derive(Clone, Copy, Debug)]
struct ShopAddresses {
    distributor: SocketAddr,
    gateway: SocketAddr,
    admin: Option<SocketAddr>,
}

/// How the shop is used.
fn welcome(addresses: ShopAddresses, nodes: &[(&str, Node)], data: &Path, temporary: bool) -> String {
    let ShopAddresses { distributor, gateway, admin } = addresses;
    let mut out = String::new();
    macro_rules! line {
        ($($text:tt)*) => { let _ = writeln!(out, $($text)*); };
    }
    line!("The shop is open.\n");
    line!("  distributor  {distributor}");
    line!("  gateway      http://{gateway}");
    if let Some(admin) = admin {
        line!("  operators    http://{admin}");
    }
    for (name, _, _) in SERVICES {
        let of_service = nodes.iter().filter(|(of, _)| *of == name);
        let addresses: Vec<_> = of_service.map(|(_, node)| node.address().to_string()).collect();
        line!("  {name:11}  {}", addresses.join("  "));
    }
    let fate = if temporary { " (removed at the end)" } else { "" };
    line!("  databases    {}{fate}", data.display());
    let json = "-H 'content-type: application/json'";
    line!("\nTry:\n");
    line!(r#"  curl -s -XPOST {gateway}/members {json} -d '{{"username":"홍길동","password":"열려라 참깨"}}'"#);
    line!(r#"  curl -s -XPOST {gateway}/goods {json} -d '{{"name":"사과","category":"fruit","price":1200}}'"#);
    line!(r#"  curl -s -XPOST {gateway}/purchases {json} -d '{{"member":1,"good":1}}'"#);
    line!(r#"  curl -s -XPOST {gateway}/purchases {json} -d '{{"member":99,"good":1}}'    # refused: no such member"#);
    line!("  curl -s '{gateway}/purchases?member=1'");
    line!("  curl -s '{gateway}/goods?category=fruit'");
    line!("  curl -s {gateway}/goods/1                # how often it was sold: told by an event");
    line!("  curl -s {gateway}/purchases/report       # made from a stream of all goods");
    line!("  curl -sN {gateway}/goods/export -H 'accept: application/x-ndjson'    # that stream, line by line");
    if let Some(admin) = admin {
        line!("\nFor operators:\n");
        line!("  curl -s {admin}/metrics                  # figures, for Prometheus");
        line!("  cargo run --release --bin gateway routes --admin {admin}        # who answers what");
        line!("  cargo run --release --bin distributor why goods --at {distributor}    # who came and went");
    }
    line!("\nCtrl-C closes it.");
    out
}
