//! The least that signs of life can cost here: a server that does nothing but ask for them.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tokio::time::{MissedTickBehavior, interval};

const PING: &[u8] = br#"{"uri":"$ping","$":{"every":50000,"epoch":1795372000000,"rev":10001,"digest":3141592653}}--"#;
const PONG: &[u8] = br#"{"uri":"$pong","$":{"epoch":1795372000000,"rev":10001}}--"#;
/// As the Distributor does it with 10,000 nodes: 200 a second, a few every 100 ms.
const TICK: Duration = Duration::from_millis(100);
const TICKS_PER_SECOND: usize = 10;
const PINGS_PER_SECOND: usize = 200;

/// Asks everybody who connects, in turn, for ever. Prints its address first.
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

/// Connects so many, who answer for as long as they are kept.
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
