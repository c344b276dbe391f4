//! Programs stop when they are told to, even if their output is blocked or gone.

use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::iter;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use tests::{Cluster, PATIENCE, eventually, pick_port, request};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::programs::{DISTRIBUTOR, GATEWAY, GOODS, HELLO, SHOP};

/// The state of standard output and standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    /// A pipe whose reader closes once the program is up.
    Dead,
    /// A pipe that is not read, and is full once the program is up.
    Full,
    /// The same, full from the beginning.
    AlwaysFull,
    /// It is closed.
    Closed,
    /// A full disk.
    NoSpace,
}

/// A program, killed when it is dropped.
struct Program {
    child: Child,
    /// Kept, and never read.
    output: Option<(PipeReader, PipeWriter)>,
}

impl Program {
    fn start(program: &str, arguments: &[&str], output: Output) -> Self {
        let mut command = Command::new(program);
        let mut pipe = None;
        match output {
            Output::Dead | Output::Full | Output::AlwaysFull => {
                let (reader, writer) = std::io::pipe().unwrap();
                if output == Output::AlwaysFull {
                    fill(&writer);
                }
                command.stdout(writer.try_clone().unwrap()).stderr(writer.try_clone().unwrap());
                pipe = Some((reader, writer));
            }
            Output::NoSpace => {
                let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
                command.stdout(full()).stderr(full());
            }
            Output::Closed => {
                command = Command::new("sh");
                command.args(["-c", "exec \"$0\" \"$@\" >&- 2>&-", program]);
            }
        }
        tests::isolate(&mut command, arguments);
        let child = command.args(arguments).stdin(Stdio::null()).spawn().unwrap();
        Self { child, output: pipe }
    }

    /// Closes its output, unless that was done at the beginning.
    fn take_output(&mut self, output: Output) {
        match output {
            Output::Dead => self.output = None,
            Output::Full => fill(&self.output.as_ref().unwrap().1),
            Output::AlwaysFull | Output::Closed | Output::NoSpace => {}
        }
    }

    /// Reads its output up to a line that has this text.
    async fn line(&self, text: &'static str) {
        let reader = self.output.as_ref().unwrap().0.try_clone().unwrap();
        let read = move || BufReader::new(reader).lines().any(|line| line.unwrap().contains(text));
        let is_there = timeout(PATIENCE, tokio::task::spawn_blocking(read)).await;
        assert!(is_there.expect(text).unwrap(), "{text}");
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    async fn ended(&mut self) -> ExitStatus {
        let mut ended = None;
        eventually("it ends", async || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        })
        .await;
        ended.unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes into a pipe until it takes nothing more.
fn fill(pipe: &PipeWriter) {
    let mut more = pipe.try_clone().unwrap();
    // Waits for ever, or until the reader closes.
    std::thread::spawn(move || while more.write_all(&[b'x'; 4096]).is_ok() {});
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    while poll(&mut [PollFd::new(pipe, PollFlags::OUT)], Some(&now)).unwrap() > 0 {
        std::thread::yield_now();
    }
}

/// Starts a program, closes its output, sends one or two signals, and returns how it ended.
async fn end(program: &'static str, output: Output, signal: Signal, is_twice: bool) -> ExitStatus {
    let cluster = Cluster::start();
    let distributor = cluster.address.to_string();
    let [at, registry] = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], pick_port())));
    let (listen, own) = (at.to_string(), registry.to_string());
    let arguments: &[&str] = match program {
        DISTRIBUTOR => &["--listen", &listen],
        GATEWAY => &["--listen", &listen, "--distributor", &distributor, "--admin", "off"],
        SHOP => &["--listen", &listen, "--distributor", &own, "--instances", "1", "--log-level", "info"],
        GOODS => &["--distributor", &distributor],
        _ => &[&distributor],
    };
    let mut process = Program::start(program, arguments, output);
    let mut observer = cluster.peer().await;
    let is_stuck = program == HELLO && output == Output::AlwaysFull;
    eventually(&format!("up: {program} {output:?}"), async || match program {
        // It waits for its log before it registers.
        _ if is_stuck => true,
        DISTRIBUTOR => TcpStream::connect(at).await.is_ok(),
        SHOP => TcpStream::connect(at).await.is_ok() && request(at, "GET", "/purchases", "").await.status == 200,
        _ => !observer.ask(1).await.is_empty(),
    })
    .await;
    if is_stuck {
        // It has its handlers from about then on; before that, a signal ends it too.
        eventually("its handlers are there", async || catches(process.child.id(), signal)).await;
    }
    if program == HELLO && output == Output::Full {
        // Its log blocks the task that writes to it: its last line is this one, after it is listed.
        process.line("connected").await;
    }
    process.take_output(output);
    process.signal(signal);
    if is_twice {
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            process.signal(signal);
        }
    }
    let status = process.ended().await;
    eventually("no node is listed", async || observer.ask(2).await.is_empty()).await;
    status
}

/// Whether a process has a handler for a signal.
fn catches(pid: u32, signal: Signal) -> bool {
    let process = procfs::process::Process::new(i32::try_from(pid).unwrap());
    process.and_then(|process| process.status()).is_ok_and(|status| status.sigcgt & (1 << (signal.as_raw() - 1)) != 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn rs19_programs_stop_whatever_their_output_does() {
    let mut cases = Vec::new();
    for program in [DISTRIBUTOR, GATEWAY, GOODS, HELLO, SHOP] {
        for output in [Output::Dead, Output::Full, Output::AlwaysFull, Output::Closed, Output::NoSpace] {
            for signal in [Signal::INT, Signal::TERM] {
                if program == HELLO && output == Output::NoSpace {
                    // Its own log panics at the first line, and `main` with it.
                    continue;
                }
                cases.extend([false, true].map(|is_twice| (program, output, signal, is_twice)));
            }
        }
    }
    let ends = iter(cases).map(async |(program, output, signal, is_twice)| {
        let status = end(program, output, signal, is_twice).await;
        let is_stuck = program == HELLO && output == Output::AlwaysFull;
        let expected: &[i32] = match is_twice {
            // It may already have ended.
            true => &[130, 0],
            // Its own log blocks it, so it is ended after the announced time.
            false if is_stuck => &[1],
            false => &[0],
        };
        let is_right = status.code().is_some_and(|code| expected.contains(&code));
        (!is_right).then(|| format!("{program} {output:?} {signal:?} twice: {is_twice}: {status}"))
    });
    let wrong: Vec<String> = ends.buffer_unordered(10).filter_map(async |wrong| wrong).collect().await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
