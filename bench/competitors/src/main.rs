//! Measures tarpc and tonic over one connection, as `drill calls` measures node-sdk, and prints
//! rows of the same table.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::StreamExt;
use tarpc::server::{BaseChannel, Channel as _};
use tarpc::tokio_serde::formats::{Bincode, Json};
use tokio::task::JoinSet;

/// As `bench/src/calls` has it, so that the figures can be compared.
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);
const IN_FLIGHT: [usize; 3] = [1, 64, 256];

/// The message that goes both ways.
#[derive(Clone, PartialEq, serde::Serialize, serde::Deserialize, prost::Message)]
pub struct EchoMessage {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(double, tag = "3")]
    price: f64,
    #[prost(string, tag = "4")]
    tags: String,
}

fn good() -> EchoMessage {
    EchoMessage { id: 42, name: "widget".into(), price: 9.5, tags: "a,b".into() }
}

#[tarpc::service]
trait Echo {
    async fn echo(good: EchoMessage) -> EchoMessage;
}

#[derive(Clone)]
struct Server;

impl Echo for Server {
    async fn echo(self, _: tarpc::context::Context, good: EchoMessage) -> EchoMessage {
        good
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let serves = arguments.next();
    pin_to(if serves.is_some() { 0 } else { 1 });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        match serves.as_deref() {
            Some("tonic") => serve_tonic().await,
            Some(format) => serve_tarpc(format == "json").await,
            None => {
                for (name, peer) in [("tarpc, bincode", "bincode"), ("tarpc, JSON", "json"), ("tonic, protobuf", "tonic")] {
                    compare(name, peer).await;
                }
            }
        }
    });
}

async fn serve_tarpc(json: bool) {
    macro_rules! serve {
        ($format:expr) => {{
            let mut listener = tarpc::serde_transport::tcp::listen("127.0.0.1:0", $format).await.unwrap();
            println!("{}", listener.local_addr());
            while let Some(Ok(transport)) = listener.next().await {
                transport.get_ref().set_nodelay(true).unwrap();
                tokio::spawn(BaseChannel::with_defaults(transport).execute(Server.serve()).for_each(|call| async {
                    tokio::spawn(call);
                }));
            }
        }};
    }
    if json { serve!(Json::default) } else { serve!(Bincode::default) }
}

async fn tarpc_client(json: bool, address: SocketAddr) -> EchoClient {
    macro_rules! connect {
        ($format:expr) => {{
            let transport = tarpc::serde_transport::tcp::connect(address, $format).await.unwrap();
            transport.get_ref().set_nodelay(true).unwrap();
            let mut config = tarpc::client::Config::default();
            config.pending_request_buffer = 1024;
            EchoClient::new(config, transport).spawn()
        }};
    }
    if json { connect!(Json::default) } else { connect!(Bincode::default) }
}

/// Written by hand what `tonic-build` would generate for a service with one method.
#[derive(Clone)]
struct Grpc;

impl tonic::server::UnaryService<EchoMessage> for Grpc {
    type Response = EchoMessage;
    type Future = std::future::Ready<Result<tonic::Response<EchoMessage>, tonic::Status>>;

    fn call(&mut self, request: tonic::Request<EchoMessage>) -> Self::Future {
        std::future::ready(Ok(tonic::Response::new(request.into_inner())))
    }
}

impl tonic::server::NamedService for Grpc {
    const NAME: &'static str = "echo.Echo";
}

impl tower::Service<http::Request<tonic::body::Body>> for Grpc {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(async move {
            let codec = tonic_prost::ProstCodec::<EchoMessage, EchoMessage>::default();
            Ok(tonic::server::Grpc::new(codec).unary(Grpc, request).await)
        })
    }
}

async fn serve_tonic() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    tonic::transport::Server::builder().add_service(Grpc).serve_with_incoming(incoming).await.unwrap();
}

async fn tonic_call(channel: tonic::transport::Channel, good: EchoMessage) -> EchoMessage {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<EchoMessage, EchoMessage>::default();
    let path = http::uri::PathAndQuery::from_static("/echo.Echo/Echo");
    grpc.unary(tonic::Request::new(good), path, codec).await.unwrap().into_inner()
}

async fn compare(name: &str, peer: &str) {
    let (mut server, address) = start(peer);
    for in_flight in IN_FLIGHT {
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let round = if peer == "tonic" {
                let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
                let channel = endpoint.tcp_nodelay(true).connect().await.unwrap();
                measure(&server, in_flight, || {
                    let channel = channel.clone();
                    run(move || tonic_call(channel.clone(), good()))
                })
                .await
            } else {
                let client = tarpc_client(peer == "json", address).await;
                measure(&server, in_flight, || {
                    let client = client.clone();
                    run(move || {
                        let client = client.clone();
                        async move { client.echo(tarpc::context::current(), good()).await.unwrap() }
                    })
                })
                .await
            };
            rounds.push(round);
        }
        print(name, in_flight, rounds);
    }
    let _ = server.kill();
    let _ = server.wait();
}

/// Makes one call after the other until the round is over. Returns how long each took.
async fn run<F: Future<Output = EchoMessage>>(call: impl Fn() -> F) -> Vec<Duration> {
    let end = Instant::now() + ROUND;
    let mut times = Vec::with_capacity(1 << 16);
    let mut begin = Instant::now();
    while begin < end {
        assert_eq!(call().await.id, 42);
        let now = Instant::now();
        times.push(now - begin);
        begin = now;
    }
    times
}

struct CallRound {
    rate: f64,
    p50: Duration,
    p99: Duration,
    server: Duration,
    client: Duration,
}

async fn measure<F>(server: &Child, in_flight: usize, work: impl Fn() -> F) -> CallRound
where
    F: Future<Output = Vec<Duration>> + Send + 'static,
{
    let (server_before, client_before, begin) = (cpu(Some(server)), cpu(None), Instant::now());
    let mut tasks = JoinSet::new();
    for _ in 0..in_flight {
        tasks.spawn(work());
    }
    let mut times = tasks.join_all().await.concat();
    let elapsed = begin.elapsed();
    let count = u32::try_from(times.len()).unwrap();
    times.sort_unstable();
    CallRound {
        rate: f64::from(count) / elapsed.as_secs_f64(),
        p50: times[times.len() / 2],
        p99: times[times.len() * 99 / 100],
        server: (cpu(Some(server)) - server_before) / count,
        client: (cpu(None) - client_before) / count,
    }
}

fn print(name: &str, in_flight: usize, mut rounds: Vec<CallRound>) {
    let us = |time: Duration| time.as_secs_f64() * 1e6;
    rounds.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    let CallRound { rate, p50, p99, server, client } = &rounds[rounds.len() / 2];
    println!(
        "{name:36} {in_flight:>9} {rate:>12.0} {:>6.0} µs {:>6.0} µs {:>6.2} µs {:>6.2} µs",
        us(*p50),
        us(*p99),
        us(*server),
        us(*client)
    );
}

/// Starts this program as a server, and returns its address.
fn start(peer: &str) -> (Child, SocketAddr) {
    use std::io::BufRead;
    let mut child = Command::new(std::env::current_exe().unwrap()).arg(peer).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (child, line.trim().parse().unwrap())
}

fn cpu(child: Option<&Child>) -> Duration {
    let process = match child {
        Some(child) => procfs::process::Process::new(i32::try_from(child.id()).unwrap()),
        None => procfs::process::Process::myself(),
    };
    let stat = process.unwrap().stat().unwrap();
    Duration::from_secs_f64((stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64)
}

fn pin_to(core: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    let _ = rustix::thread::sched_setaffinity(None, &set);
}
