//! Requests that are sent at fixed times, even while earlier ones are unanswered. One thread sends
//! them and does little else, because it shares its core with the server.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use socket2::{Domain, Socket, Type};
use tokio::task::spawn_blocking;

use crate::http::{is_answer, is_whole};
use crate::report::percentiles;

/// Events of one wait: responses that come together are read together.
const MAX_EVENTS: usize = 64;
/// How long a run may last: all requests must be answered by then.
const RUN_TIMEOUT: Duration = Duration::from_secs(15);
/// How long clients of an attacked server wait for the last responses.
const ATTACK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a client waits for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// Connections over which requests are sent, each at its own time.
pub(crate) struct OpenLoop(Arc<Mutex<OpenLoopClients>>);

struct OpenLoopClients {
    epoll: OwnedFd,
    address: SocketAddr,
    request: Vec<u8>,
    all: Vec<OpenLoopClient>,
}

/// A response, or a request that got none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimedResponse {
    /// The number of the client, from 0.
    pub(crate) client: usize,
    /// The time since the request was due.
    pub(crate) took: Duration,
    /// The time since the request was sent.
    pub(crate) waited: Duration,
    /// Whether the response is the expected one; otherwise the server has declined, or there was no
    /// response.
    pub(crate) is_right: bool,
}

/// One connection, and when each of its requests was due. The first of these has been sent.
struct OpenLoopClient {
    /// The address that it comes from.
    source: Option<IpAddr>,
    /// `None` if the server has not accepted it.
    stream: Option<TcpStream>,
    due: VecDeque<Instant>,
    sent: Instant,
    answer: Vec<u8>,
}

impl OpenLoop {
    /// Opens `clients` connections for this request.
    pub(crate) async fn connect(address: SocketAddr, request: &str, clients: usize) -> Self {
        Self::connect_from(&vec![None; clients], address, request).await
    }

    /// Opens a connection from each of these addresses, in this order.
    pub(crate) async fn connect_from(sources: &[Option<IpAddr>], address: SocketAddr, request: &str) -> Self {
        let (sources, request) = (sources.to_vec(), request.as_bytes().to_vec());
        let connected = spawn_blocking(move || OpenLoopClients::connect(&sources, address, request)).await.unwrap();
        assert!(connected.all.iter().all(|client| client.stream.is_some()), "every client is let in");
        Self(Arc::new(Mutex::new(connected)))
    }

    /// Sends `rate` requests a second for this time, over each of the connections in turn. Returns
    /// all responses, in the order in which they came.
    pub(crate) async fn run(&self, rate: f64, time: Duration) -> Vec<TimedResponse> {
        let clients = Arc::clone(&self.0);
        let answers =
            spawn_blocking(move || clients.lock().unwrap().run(rate, time, Instant::now() + RUN_TIMEOUT, false)).await;
        let answers = answers.unwrap();
        assert!(answers.len() == (rate * time.as_secs_f64()) as usize, "{} were answered in time", answers.len());
        answers
    }

    /// As [`run`](Self::run), with more requests than can be answered. When the time is over, the
    /// unanswered ones are given up, and so are the connections.
    pub(crate) async fn run_and_give_up(self, rate: f64, time: Duration) -> Vec<TimedResponse> {
        spawn_blocking(move || self.0.lock().unwrap().run(rate, time, Instant::now() + time, false)).await.unwrap()
    }

    /// As [`run`](Self::run), at a server under attack: a client that is cut off connects again at
    /// once. A request without a response counts as a wrong response.
    pub(crate) async fn run_under_attack(&self, rate: f64, time: Duration) -> Vec<TimedResponse> {
        let clients = Arc::clone(&self.0);
        let end = Instant::now() + time + ATTACK_TIMEOUT;
        let run = move || {
            let mut clients = clients.lock().unwrap();
            let mut answers = clients.run(rate, time, end, true);
            answers.extend(clients.give_up());
            answers
        };
        spawn_blocking(run).await.unwrap()
    }

    /// The median and the 99th percentile of the times from when a request was due until its
    /// response was there. A request that waits for the one before it counts from when it should
    /// have been sent.
    pub(crate) async fn percentiles(&self, rate: f64, time: Duration) -> (Duration, Duration) {
        let answers = self.run(rate, time).await;
        assert!(answers.iter().all(|answer| answer.is_right), "every answer is right");
        percentiles(&mut answers.into_iter().map(|answer| answer.took).collect::<Vec<_>>())
    }
}

impl OpenLoopClients {
    fn connect(sources: &[Option<IpAddr>], address: SocketAddr, request: Vec<u8>) -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let client = |source: &_| OpenLoopClient {
            source: *source,
            stream: None,
            due: VecDeque::new(),
            sent: Instant::now(),
            answer: Vec::new(),
        };
        let mut all: Vec<_> = sources.iter().map(client).collect();
        for (number, client) in all.iter_mut().enumerate() {
            client.connect(&epoll, address, number);
        }
        Self { epoll, address, request, all }
    }

    /// Sends requests at this rate. With `may_cut`, the server may cut clients off, and refuse new
    /// ones.
    fn run(&mut self, rate: f64, time: Duration, end: Instant, may_cut: bool) -> Vec<TimedResponse> {
        let Self { epoll, address, request, all } = self;
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
                    if client.stream.is_none() {
                        client.connect(epoll, *address, next);
                    }
                    if !client.ask(request) {
                        assert!(may_cut, "a request fits into what the system takes");
                        answers.extend(client.cut(next));
                    }
                }
                sent += 1;
            }
            // The time-out of `poll` is exact; that of `epoll` is not.
            let wait = if sent < total { due(sent).saturating_duration_since(now) } else { Duration::from_millis(100) };
            let wait = Timespec { tv_sec: 0, tv_nsec: wait.as_nanos().try_into().unwrap() };
            poll(&mut [PollFd::new(&*epoll, PollFlags::IN)], Some(&wait)).unwrap();
            epoll::wait(&*epoll, spare_capacity(&mut events), Some(&Timespec::default())).unwrap();
            for event in events.drain(..) {
                let number = event.data.u64() as usize;
                let client = &mut all[number];
                if client.read() {
                    answers.extend(client.answered(number, request));
                } else {
                    assert!(may_cut, "the connection was closed");
                    answers.extend(client.cut(number));
                }
            }
        }
        answers
    }

    /// Gives up the requests that are not answered, and closes their connections.
    fn give_up(&mut self) -> Vec<TimedResponse> {
        let late = self.all.iter_mut().enumerate().filter(|(_, client)| !client.due.is_empty());
        late.flat_map(|(number, client)| client.cut(number)).collect()
    }
}

impl OpenLoopClient {
    /// Connects, unless the server lets it wait for too long.
    fn connect(&mut self, epoll: &OwnedFd, address: SocketAddr, number: usize) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        if let Some(source) = self.source {
            socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
        }
        self.answer.clear();
        self.stream = socket.connect_timeout(&address.into(), CONNECT_TIMEOUT).is_ok().then(|| socket.into());
        if let Some(stream) = &self.stream {
            stream.set_nodelay(true).unwrap();
            stream.set_nonblocking(true).unwrap();
            let data = epoll::EventData::new_u64(number as u64);
            epoll::add(epoll, stream, data, epoll::EventFlags::IN).unwrap();
        }
    }

    /// Gives up its connection and the requests on it.
    fn cut(&mut self, client: usize) -> Vec<TimedResponse> {
        self.stream = None;
        let waited = self.sent.elapsed();
        self.due.drain(..).map(|due| TimedResponse { client, took: due.elapsed(), waited, is_right: false }).collect()
    }

    /// Reads what has arrived. Returns false if the connection has ended.
    fn read(&mut self) -> bool {
        let Some(stream) = &mut self.stream else { return true };
        let mut part = [0; 4096];
        match stream.read(&mut part) {
            Ok(0) => false,
            Ok(bytes) => {
                self.answer.extend_from_slice(&part[..bytes]);
                true
            }
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }

    /// If the response is complete, returns it and sends the request that waited for it.
    fn answered(&mut self, client: usize, request: &[u8]) -> Option<TimedResponse> {
        if !is_whole(&self.answer) {
            return None;
        }
        let is_right = is_answer(&self.answer);
        self.answer.clear();
        let due = self.due.pop_front()?;
        let waited = self.sent.elapsed();
        if !self.due.is_empty() {
            // If that fails, the end of the connection is read next.
            self.ask(request);
        }
        Some(TimedResponse { client, took: due.elapsed(), waited, is_right })
    }

    /// Sends its next request. Returns false if the connection does not accept it.
    fn ask(&mut self, request: &[u8]) -> bool {
        self.sent = Instant::now();
        self.stream.as_mut().is_some_and(|stream| stream.write_all(request).is_ok())
    }
}
