//! The competitors of the Distributor in `fan-out`: Redis and NATS publish a message, and etcd
//! tells watchers of a key.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use memchr::memmem;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::daemon_process::Daemon;
use crate::registry::swarm::write;
use crate::report::{ms, percentiles, row};

/// A server that tells subscribers, and how to speak to it.
struct Broker {
    name: &'static str,
    program: &'static str,
    arguments: &'static [&'static str],
    port: u16,
    /// The text that a subscriber writes, and a text by which the server accepts it.
    subscribe: String,
    subscribed: &'static str,
    /// The bytes that a publisher writes for a payload.
    publish: fn(&str) -> String,
    /// The form in which a subscriber reads the payload.
    shown: fn(&str) -> String,
}

/// Measures each of them that is installed.
pub(crate) async fn fan_out(nodes: usize, rounds: usize) {
    let etcd_data = std::env::temp_dir().join(format!("drill-etcd-{}", std::process::id()));
    let etcd_data = etcd_data.to_str().unwrap().to_owned();
    let watch = format!(r#"{{"create_request":{{"key":"{}"}}}}"#, base64("c"));
    let others = [
        Broker {
            name: "redis pub/sub",
            program: "redis-server",
            arguments: &["--port", "19101", "--save", "", "--maxclients", "20000", "--bind", "127.0.0.1"],
            port: 19_101,
            subscribe: "SUBSCRIBE c\r\n".to_owned(),
            subscribed: "subscribe",
            publish: |payload| format!("*3\r\n$7\r\nPUBLISH\r\n$1\r\nc\r\n${}\r\n{payload}\r\n", payload.len()),
            shown: str::to_owned,
        },
        Broker {
            name: "nats-server",
            program: "nats-server",
            arguments: &["-p", "19102", "-a", "127.0.0.1"],
            port: 19_102,
            subscribe: "CONNECT {\"verbose\":false}\r\nSUB c 1\r\nPING\r\n".to_owned(),
            subscribed: "PONG",
            publish: |payload| format!("PUB c {}\r\n{payload}\r\n", payload.len()),
            shown: str::to_owned,
        },
        Broker {
            name: "etcd watch (its JSON gateway)",
            program: "etcd",
            arguments: &[],
            port: 19_103,
            subscribe: format!(
                "POST /v3/watch HTTP/1.1\r\nHost: e\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{watch}",
                watch.len()
            ),
            subscribed: "created",
            publish: |payload| {
                let body = format!(r#"{{"key":"{}","value":"{}"}}"#, base64("c"), base64(payload));
                format!("POST /v3/kv/put HTTP/1.1\r\nHost: e\r\nContent-Length: {}\r\n\r\n{body}", body.len())
            },
            shown: base64,
        },
    ];
    for other in others {
        let mut arguments: Vec<&str> = other.arguments.to_vec();
        let etcd = ["--data-dir", &etcd_data, "--listen-client-urls", "http://127.0.0.1:19103"];
        let more =
            ["--advertise-client-urls", "http://127.0.0.1:19103", "--listen-peer-urls", "http://127.0.0.1:19104"];
        if other.program == "etcd" {
            arguments.extend(
                etcd.into_iter().chain(more).chain(["--initial-advertise-peer-urls", "http://127.0.0.1:19104"]),
            );
            arguments.extend(["--initial-cluster", "default=http://127.0.0.1:19104", "--log-level", "error"]);
        }
        match Daemon::other(other.program, &arguments, other.port).await {
            Some(daemon) => measure(&other, &daemon, nodes, rounds).await,
            None => row(other.name, "not installed"),
        }
    }
    let _ = std::fs::remove_dir_all(etcd_data);
}

async fn measure(other: &Broker, daemon: &Daemon, nodes: usize, rounds: usize) {
    let told: Rc<(Cell<usize>, Notify)> = Rc::default();
    let mark: Rc<std::cell::RefCell<Vec<u8>>> = Rc::default();
    let base = daemon.rss_bytes();
    let mut subscribers = Vec::new();
    for _ in 0..nodes {
        let stream = subscribe(other, daemon.address).await;
        let (told, mark) = (Rc::clone(&told), Rc::clone(&mark));
        subscribers.push(tokio::task::spawn_local(async move {
            let mut buffer = Vec::with_capacity(4096);
            while stream.readable().await.is_ok() {
                match stream.try_read_buf(&mut buffer) {
                    Ok(0) => break,
                    Ok(_) if memmem::find(&buffer, &mark.borrow()).is_some() => {
                        buffer.clear();
                        told.0.set(told.0.get() + 1);
                        told.1.notify_one();
                    }
                    Ok(_) => {}
                    Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
                }
            }
        }));
    }
    let memory = (daemon.rss_bytes() - base) as f64 / nodes as f64 / 1e3;
    let publisher = TcpStream::connect(daemon.address).await.unwrap();
    publisher.set_nodelay(true).unwrap();
    let mut scrap = Vec::with_capacity(65_536);
    let (mut times, before) = (Vec::new(), daemon.cpu());
    for round in 0..rounds {
        let payload = format!("{round:06}{}", "x".repeat(144));
        *mark.borrow_mut() = (other.shown)(&payload).into_bytes();
        told.0.set(0);
        let begin = Instant::now();
        write(&publisher, (other.publish)(&payload).as_bytes()).await.unwrap();
        while told.0.get() < nodes {
            told.1.notified().await;
        }
        times.push(begin.elapsed());
        scrap.clear();
        let _ = publisher.try_read_buf(&mut scrap);
        sleep(Duration::from_millis(100)).await;
    }
    let cpu_each = (daemon.cpu() - before).as_secs_f64() * 1e6 / (rounds * nodes) as f64;
    let (p50, p99) = percentiles(&mut times);
    row(
        other.name,
        &format!("p50 {:7.1} ms   p99 {:7.1} ms   {cpu_each:5.2} µs CPU each   {memory:.1} kB each", ms(p50), ms(p99)),
    );
    subscribers.iter().for_each(tokio::task::JoinHandle::abort);
}

async fn subscribe(other: &Broker, address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.unwrap();
    write(&stream, other.subscribe.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while memmem::find(&seen, other.subscribed.as_bytes()).is_none() {
        stream.readable().await.unwrap();
        let _ = stream.try_read_buf(&mut seen);
    }
    stream
}

fn base64(text: &str) -> String {
    BASE64_STANDARD.encode(text)
}
