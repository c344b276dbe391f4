//! The floors of the Distributor: a server that only pings, and one that only sends the same bytes
//! to all.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{MissedTickBehavior, interval};

const PING: &[u8] = br#"{"uri":"$ping","$":{"every":50000,"epoch":1795372000000,"rev":10001,"digest":3141592653}}--"#;
const PONG: &[u8] = br#"{"uri":"$pong","$":{"epoch":1795372000000,"rev":10001}}--"#;
/// The server pings as the Distributor does with 10,000 nodes: 200 pings a second, a few every 100
/// ms.
const TICK: Duration = Duration::from_millis(100);
const TICKS_PER_SECOND: usize = 10;
const PINGS_PER_SECOND: usize = 200;

/// Prints its address, and then pings all its connections in turn, for ever.
pub(crate) async fn serve() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    let streams: Rc<RefCell<Vec<Rc<TcpStream>>>> = Rc::default();
    let asked = Rc::clone(&streams);
    spawn_local(async move {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        for tick in 0.. {
            ticks.tick().await;
            let streams = asked.borrow();
            for ping in tick * PINGS_PER_SECOND / TICKS_PER_SECOND..(tick + 1) * PINGS_PER_SECOND / TICKS_PER_SECOND {
                if let Some(count) = std::num::NonZero::new(streams.len()) {
                    let _ = streams[ping % count].try_write(PING);
                }
            }
        }
    });
    while let Ok((stream, _)) = listener.accept().await {
        let stream = Rc::new(stream);
        streams.borrow_mut().push(Rc::clone(&stream));
        spawn_local(async move {
            let mut scrap = [0; 512];
            while stream.readable().await.is_ok() && !matches!(stream.try_read(&mut scrap), Ok(0)) {}
        });
    }
}

/// Connects `count` clients, which answer pings until they are dropped.
pub(crate) async fn clients(address: SocketAddr, count: usize) -> tokio::task::JoinSet<()> {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..count {
        let stream = TcpStream::connect(address).await.unwrap();
        tasks.spawn_local(async move {
            let mut scrap = [0; 512];
            while stream.readable().await.is_ok() {
                match stream.try_read(&mut scrap) {
                    Ok(1..) => drop(stream.try_write(PONG)),
                    Ok(0) => return,
                    Err(_nothing) => {}
                }
            }
        });
    }
    tasks
}

/// As many bytes as a change by which one node has joined.
const CHANGE: [u8; 330] = [b'x'; 330];

/// Prints its address. When any connection sends a byte, sends [`CHANGE`] to all connections.
pub(crate) async fn serve_fan_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    let streams: Rc<RefCell<Vec<Rc<TcpStream>>>> = Rc::default();
    while let Ok((stream, _)) = listener.accept().await {
        let stream = Rc::new(stream);
        streams.borrow_mut().push(Rc::clone(&stream));
        let all = Rc::clone(&streams);
        spawn_local(async move {
            let mut scrap = [0; 512];
            while stream.readable().await.is_ok() {
                match stream.try_read(&mut scrap) {
                    Ok(0) => return,
                    Ok(_) => all.borrow().iter().for_each(|stream| drop(stream.try_write(&CHANGE))),
                    Err(_nothing) => {}
                }
            }
        });
    }
}

/// Measures, for each round, the time until the last of `count` clients has read what this server
/// sends.
pub(crate) async fn fan_out(address: SocketAddr, count: usize, rounds: usize, gap: Duration) -> Vec<Duration> {
    let told: Rc<(Cell<usize>, Notify)> = Rc::default();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..count {
        let stream = TcpStream::connect(address).await.unwrap();
        let told = Rc::clone(&told);
        tasks.spawn_local(async move {
            let mut scrap = [0; 512];
            while stream.readable().await.is_ok() {
                if let Ok(1..) = stream.try_read(&mut scrap) {
                    told.0.set(told.0.get() + 1);
                    told.1.notify_one();
                }
            }
        });
    }
    let sender = TcpStream::connect(address).await.unwrap();
    let mut times = Vec::new();
    for _ in 0..rounds {
        tokio::time::sleep(gap).await;
        told.0.set(0);
        let begin = Instant::now();
        sender.writable().await.unwrap();
        sender.try_write(b"x").unwrap();
        while told.0.get() < count {
            told.1.notified().await;
        }
        times.push(begin.elapsed());
    }
    times
}
