//! The whole shop in one process: Distributor, gateway, and every service several times.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use futures::future::join_all;
use net::{LogFormat, LogLevel, bind, exit_code, init_log, listen_address, raise_open_files, stop_on_signals};
use node_sdk::{Node, NodeBuilder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
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

/// A service's tables, and its node once it has a database.
type Service = (&'static str, &'static str, fn(Database) -> NodeBuilder);

const SERVICES: [Service; 3] = [
    ("members", members::TABLES, members::node),
    ("goods", goods::TABLES, goods::node),
    ("purchases", purchases::TABLES, purchases::node),
];

/// How long everything may take to find each other on one machine.
const OPENING_TIME: Duration = Duration::from_secs(10);
/// How long closing may take: half a minute of the gateway's, twelve seconds of a node's, and some
/// more.
const LONGEST_STOP: Duration = Duration::from_secs(50);

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
    std::fs::create_dir_all(data)?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(open(args, data))
}

async fn open(args: &ShopArgs, data: &Path) -> Result<(), Box<dyn Error>> {
    let stop = stop_on_signals(|| LONGEST_STOP)?;
    // The gateway goes first and the Distributor last, so that what is in flight still finds its
    // way.
    let (stop_gateway, stop_distributor) = (CancellationToken::new(), CancellationToken::new());
    let (registry, door) = (bind(args.distributor)?, bind(args.listen)?);
    let (registry_address, door_address) = (registry.local_addr()?, door.local_addr()?);

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
    let gateway = tokio::spawn(gateway::serve(door, config, stop_gateway.clone()));

    let ready = async {
        for path in ["/members", "/goods", "/purchases"] {
            while !answers(door_address, path).await {
                sleep(Duration::from_millis(20)).await;
            }
        }
    };
    tokio::select! {
        ready = timeout(OPENING_TIME, ready) => ready.map_err(|_| "the services did not find each other in 10 s")?,
        () = stop.cancelled() => {}
    }
    if !stop.is_cancelled() {
        announce(welcome(registry_address, door_address, &nodes, data, args.data.is_none()));
        stop.cancelled().await;
    }

    stop_gateway.cancel();
    gateway.await??;
    join_all(nodes.into_iter().map(|(_, node)| node.stop())).await;
    stop_distributor.cancel();
    distributor.await?;
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

/// Prints, in a thread that nobody waits for: standard output may be closed, or a pipe that nobody
/// reads.
fn announce(text: String) {
    let print = move || drop(io::stdout().write_all(text.as_bytes()));
    let _ = std::thread::Builder::new().name("welcome".to_owned()).spawn(print);
}

/// How the shop is used.
fn welcome(
    distributor: SocketAddr,
    gateway: SocketAddr,
    nodes: &[(&str, Node)],
    data: &Path,
    temporary: bool,
) -> String {
    let mut out = String::new();
    macro_rules! line {
        ($($text:tt)*) => { let _ = writeln!(out, $($text)*); };
    }
    line!("The shop is open.\n");
    line!("  distributor  {distributor}");
    line!("  gateway      http://{gateway}");
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
    line!("\nCtrl-C closes it.");
    out
}
