//! Thousands who are slow, or few who flood: what good clients notice of them, and what memory they take.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::task::spawn_local;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use crate::door::median;
use crate::edge::Front;
use crate::pace::Pace;
use crate::scenes::{ms, row, title};

const SLOW: usize = 5000;
/// Attackers who send as much as they can; more of them are no matter of HTTP.
const FLOODS: usize = 50;
const CLIENTS: usize = 64;
const RATE: f64 = 5000.0;
/// Short, as for half load: the machine's stalls are nobody's attack.
const ROUND: Duration = Duration::from_millis(200);
const ROUNDS: usize = 21;
/// How far apart the attackers come: all in one moment would be an attack of ours.
const APART: Duration = Duration::from_micros(400);
/// After the last attacker has come, and after all have gone.
const SETTLES: Duration = Duration::from_secs(2);

/// What attackers do.
struct Attack {
    name: &'static str,
    attackers: usize,
    /// What each says, and what again and again, so often.
    first: Vec<u8>,
    again: Vec<u8>,
    every: Duration,
}

/// All of that at each of them, one after the other; floods are HTTP/2, which one of them is asked for here.
pub(crate) async fn attackers(fronts: &[Front]) {
    title("5000 slow attackers, or 50 who flood, and the p99 of 64 good clients with 5000 requests a second");
    let memories: Vec<u64> = fronts.iter().map(|front| front.process.rss_bytes()).collect();
    for attack in attacks() {
        for (front, memory) in fronts.iter().zip(&memories) {
            if attack.is_flood() && front.name != "gateway" {
                continue;
            }
            let request = "GET /echo HTTP/1.1\r\nHost: door\r\n\r\n";
            let clients = Pace::connect(front.process.address, request, CLIENTS).await;
            // To warm up.
            p99(&clients).await;
            let usual = p99(&clients).await;
            let running = attack.begin(front.process.address);
            sleep(APART * u32::try_from(attack.attackers).unwrap() + SETTLES).await;
            let under_attack = p99(&clients).await;
            let grown = front.process.rss_bytes().saturating_sub(*memory) as f64 / 1e6;
            let name = format!("{}, {}", front.name, attack.name);
            let (usual, ratio) = (usual * 1e3, under_attack / usual);
            let under_attack = under_attack * 1e3;
            row(&name, &format!("p99 {under_attack:.2} ms, before {usual:.2} ({ratio:.1} ×), memory + {grown:.1} MB"));
            drop(running);
            sleep(SETTLES).await;
        }
    }
}

/// In seconds, the middle of some rounds.
async fn p99(clients: &Pace) -> f64 {
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push(ms(clients.percentiles(RATE, ROUND).await.1) / 1e3);
    }
    median(rounds.into_iter())
}

fn attacks() -> [Attack; 5] {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let get = [0x82, 0x86, 0x84, 0x41, 1, b'g'];
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    };
    let rapid: Vec<u8> = (0..200u32)
        .flat_map(|at| [frame(1, 5, at * 2 + 1, &get), frame(3, 0, at * 2 + 1, &[0, 0, 0, 8])].concat())
        .collect();
    let continuation: Vec<u8> = (0..50).flat_map(|_| frame(9, 0, 1, &[0, 1, b'a', 1, b'b'])).collect();
    let slow = |name, first: &[u8], again: &[u8]| Attack {
        name,
        attackers: SLOW,
        first: first.to_vec(),
        again: again.to_vec(),
        every: Duration::from_secs(2),
    };
    let flood = |name, first: Vec<u8>, again| Attack {
        name,
        attackers: FLOODS,
        first,
        again,
        every: Duration::from_millis(500),
    };
    let heads = b"GET / HTTP/1.1\r\nHost: g\r\n";
    let big = b"GET /big HTTP/1.1\r\nHost: g\r\n\r\n";
    let post = b"POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 100000\r\n\r\n";
    [
        slow("slow heads", heads, b"X: y\r\n"),
        slow("slow bodies", post, b"x"),
        slow("slow readers", big, b""),
        flood("rapid resets", preface.to_vec(), rapid),
        flood("headers without end", [&preface[..], &frame(1, 1, 1, &get)].concat(), continuation),
    ]
}

impl Attack {
    fn is_flood(&self) -> bool {
        self.attackers == FLOODS
    }

    /// They come, one after the other, and again when they are cut off, until this is dropped.
    fn begin(&self, at: SocketAddr) -> Vec<AbortOnDropHandle<()>> {
        let come = |number: usize| {
            let (first, again, every) = (self.first.clone(), self.again.clone(), self.every);
            spawn_local(async move {
                sleep(APART * u32::try_from(number).unwrap()).await;
                loop {
                    // Who attacks spends little: all of their systems' memory would be ours here.
                    let socket = TcpSocket::new_v4().unwrap();
                    socket.set_recv_buffer_size(4096).unwrap();
                    let Ok(mut stream) = socket.connect(at).await else { return };
                    let mut open = stream.write_all(&first).await.is_ok();
                    while open {
                        sleep(every).await;
                        open = stream.write_all(&again).await.is_ok();
                    }
                    sleep(every).await;
                }
            })
        };
        (0..self.attackers).map(|number| AbortOnDropHandle::new(come(number))).collect()
    }
}
