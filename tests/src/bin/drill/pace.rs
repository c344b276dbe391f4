//! Requests at their own times, whatever becomes of those before: from one thread that does as little else as it can, as it shares its
//! core with the back end.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use tokio::task::spawn_blocking;

use crate::door::{is_answer, is_whole};
use crate::scenes::percentiles;

const MAX_EVENTS: usize = 64;
/// Every request is, of those that can be.
const ANSWERED_BY: Duration = Duration::from_secs(15);

/// Connections over which requests leave, each at its own time.
pub(crate) struct Pace(Arc<Mutex<Clients>>);

struct Clients {
    epoll: OwnedFd,
    request: Vec<u8>,
    all: Vec<Client>,
}

/// How long it took after it was due, how long after it was sent, and whether it is the right one: the server may have declined.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered {
    pub(crate) took: Duration,
    pub(crate) waited: Duration,
    pub(crate) is_right: bool,
}

/// One connection, and since when its requests are due: the first of them is on its way.
struct Client {
    stream: TcpStream,
    due: VecDeque<Instant>,
    sent: Instant,
    answer: Vec<u8>,
}

impl Pace {
    /// So many connections, to ask for that.
    pub(crate) async fn connect(address: SocketAddr, request: &str, clients: usize) -> Self {
        let request = request.as_bytes().to_vec();
        let connected = spawn_blocking(move || Clients::connect(address, request, clients)).await;
        Self(Arc::new(Mutex::new(connected.expect("everybody is let in"))))
    }

    /// Sends `rate` requests a second for that time, over each of the connections in turn, and gives all answers, in the order in
    /// which they came.
    pub(crate) async fn run(&self, rate: f64, time: Duration) -> Vec<Answered> {
        let clients = Arc::clone(&self.0);
        let answers =
            spawn_blocking(move || clients.lock().unwrap().run(rate, time, Instant::now() + ANSWERED_BY)).await;
        let answers = answers.unwrap();
        assert!(answers.len() == (rate * time.as_secs_f64()) as usize, "{} were answered in time", answers.len());
        answers
    }

    /// As [`run`](Self::run), of more than can be answered: what is not when the time is over is given up, and so are the connections.
    pub(crate) async fn run_and_leave(self, rate: f64, time: Duration) -> Vec<Answered> {
        spawn_blocking(move || self.0.lock().unwrap().run(rate, time, Instant::now() + time)).await.unwrap()
    }

    /// The middle and the 99th percentile of how long after it was due each answer was there: a request that has to wait for the one
    /// before counts from when it should have left.
    pub(crate) async fn percentiles(&self, rate: f64, time: Duration) -> (Duration, Duration) {
        let answers = self.run(rate, time).await;
        assert!(answers.iter().all(|answer| answer.is_right), "every answer is right");
        percentiles(&mut answers.into_iter().map(|answer| answer.took).collect::<Vec<_>>())
    }
}

impl Clients {
    fn connect(address: SocketAddr, request: Vec<u8>, clients: usize) -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let all = (0..clients)
            .map(|number| {
                let stream = TcpStream::connect(address).unwrap();
                stream.set_nodelay(true).unwrap();
                stream.set_nonblocking(true).unwrap();
                let data = epoll::EventData::new_u64(number as u64);
                epoll::add(&epoll, &stream, data, epoll::EventFlags::IN).unwrap();
                Client { stream, due: VecDeque::new(), sent: Instant::now(), answer: Vec::new() }
            })
            .collect();
        Self { epoll, request, all }
    }

    fn run(&mut self, rate: f64, time: Duration, end: Instant) -> Vec<Answered> {
        let Self { epoll, request, all } = self;
        let total = (rate * time.as_secs_f64()) as u32;
        let start = Instant::now() + Duration::from_millis(5);
        let due = |number: u32| start + Duration::from_secs_f64(f64::from(number) / rate);
        let (mut sent, mut answers) = (0, Vec::with_capacity(total as usize));
        let mut events = Vec::with_capacity(MAX_EVENTS);
        while answers.len() < total as usize {
            let now = Instant::now();
            if now > end {
                break;
            }
            while sent < total && due(sent) <= now {
                let next = sent as usize % all.len();
                let client = &mut all[next];
                client.due.push_back(due(sent));
                if client.due.len() == 1 {
                    client.ask(request);
                }
                sent += 1;
            }
            // The time-out of `poll` is exact, that of `epoll` is not.
            let wait = if sent < total { due(sent).saturating_duration_since(now) } else { Duration::from_millis(100) };
            let wait = Timespec { tv_sec: 0, tv_nsec: wait.as_nanos().try_into().unwrap() };
            poll(&mut [PollFd::new(&*epoll, PollFlags::IN)], Some(&wait)).unwrap();
            epoll::wait(&*epoll, spare_capacity(&mut events), Some(&Timespec::default())).unwrap();
            for event in events.drain(..) {
                answers.extend(all[event.data.u64() as usize].read(request));
            }
        }
        answers
    }
}

impl Client {
    /// The request whose answer is complete now; the one that waits for that leaves.
    fn read(&mut self, request: &[u8]) -> Option<Answered> {
        let mut part = [0; 4096];
        match self.stream.read(&mut part) {
            Ok(0) => panic!("the connection was closed"),
            Ok(bytes) => self.answer.extend_from_slice(&part[..bytes]),
            Err(error) => assert!(error.kind() == ErrorKind::WouldBlock, "{error}"),
        }
        if !is_whole(&self.answer) {
            return None;
        }
        let is_right = is_answer(&self.answer);
        self.answer.clear();
        let due = self.due.pop_front().expect("it was asked for");
        let waited = self.sent.elapsed();
        if !self.due.is_empty() {
            self.ask(request);
        }
        Some(Answered { took: due.elapsed(), waited, is_right })
    }

    fn ask(&mut self, request: &[u8]) {
        self.sent = Instant::now();
        self.stream.write_all(request).expect("a request fits into what the system takes");
    }
}
