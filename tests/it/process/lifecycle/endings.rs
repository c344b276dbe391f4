//! Programs stop when they are told to, even if their output is blocked or gone.

use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::iter;
use procfs::ProcError;
use procfs::net::TcpState;
use procfs::process::FDTarget;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tests::{
    Cluster, GatewayFiles, PATIENCE, Peer, Process, Terminal, eventually, example, legacy_peers_can_run, pick_address,
    pick_port, request,
};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::programs::{DISTRIBUTOR, GATEWAY, GOODS, HELLO, NODE, SHOP};

/// The state of standard output and standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    /// A terminal, which is read.
    Terminal,
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
    terminal: Option<Terminal>,
}

impl Program {
    fn start(program: &str, arguments: &[&str], output: Output) -> Self {
        if output == Output::Terminal {
            return Self::start_at(Terminal::open(), program, arguments);
        }
        // Without the terminal of the person who runs the tests.
        let mut command = Command::new("setsid");
        let mut pipe = None;
        match output {
            Output::Terminal => {}
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
                command.args(["sh", "-c", "exec \"$0\" \"$@\" >&- 2>&-"]);
            }
        }
        tests::isolate(&mut command, arguments);
        let child = command.arg(program).args(arguments).stdin(Stdio::null()).spawn().unwrap();
        Self { child, output: pipe, terminal: None }
    }

    fn start_at(terminal: Terminal, program: &str, arguments: &[&str]) -> Self {
        let child = terminal.command(program, arguments).spawn().unwrap();
        Self { child, output: None, terminal: Some(terminal) }
    }

    /// Closes its output, unless that was done at the beginning.
    fn take_output(&mut self, output: Output) {
        match output {
            Output::Dead => self.output = None,
            Output::Full => fill(&self.output.as_ref().unwrap().1),
            Output::Terminal | Output::AlwaysFull | Output::Closed | Output::NoSpace => {}
        }
    }

    /// Reads its output up to a line that has this text.
    async fn line(&self, text: &'static str) {
        let reader = self.output.as_ref().unwrap().0.try_clone().unwrap();
        let read = move || BufReader::new(reader).lines().any(|line| line.unwrap().contains(text));
        let is_there = timeout(PATIENCE, tokio::task::spawn_blocking(read)).await;
        assert!(is_there.expect(text).unwrap(), "{text}");
    }

    /// SIGHUP comes from the terminal if there is one.
    fn signal(&mut self, signal: Signal) {
        match self.terminal.take_if(|_| signal == Signal::HUP) {
            Some(terminal) => terminal.close(),
            None => {
                let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
                kill_process(pid, signal).unwrap();
            }
        }
    }

    fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
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

/// How a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    Usual,
    /// A gateway with a file.
    WithFile,
    /// A service without a log of its own.
    Plain,
}

/// A way to end a program.
#[derive(Clone, Copy, Debug)]
struct Case {
    program: &'static str,
    variant: Variant,
    output: Output,
    signal: Signal,
    is_twice: bool,
}

impl Case {
    /// Whether its own log blocks it before it registers.
    fn is_stuck(&self) -> bool {
        self.program == HELLO && self.variant == Variant::Usual && self.output == Output::AlwaysFull
    }

    /// Starts the program, closes its output, sends one or two signals, and returns how it ended.
    async fn end(self) -> ExitStatus {
        let Self { program, variant, output, signal, is_twice } = self;
        let cluster = Cluster::start();
        let distributor = cluster.address.to_string();
        let [at, registry] = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], pick_port())));
        let (listen, own) = (at.to_string(), registry.to_string());
        let files = GatewayFiles::new();
        let file = files.write("idle_timeout = \"10s\"\n");
        let mut arguments: Vec<&str> = match program {
            DISTRIBUTOR => vec!["--listen", &listen],
            GATEWAY => vec!["--listen", &listen, "--distributor", &distributor, "--admin", "off"],
            SHOP => [
                &["--listen", &listen, "--distributor", &own, "--admin", "off"][..],
                &["--instances", "1", "--log-level", "info"],
            ]
            .concat(),
            GOODS => vec!["--distributor", &distributor],
            _ => vec![&distributor],
        };
        match variant {
            Variant::Usual => {}
            Variant::WithFile => arguments.extend(["--config", file.to_str().unwrap()]),
            Variant::Plain => arguments.push("plain"),
        }
        let mut process = Program::start(program, &arguments, output);
        let mut observer = cluster.peer().await;
        let mut listed = Vec::new();
        eventually(&format!("up: {self:?}"), async || match program {
            _ if self.is_stuck() => true,
            DISTRIBUTOR => TcpStream::connect(at).await.is_ok(),
            SHOP => TcpStream::connect(at).await.is_ok() && request(at, "GET", "/purchases", "").await.status == 200,
            _ => {
                listed = observer.ask(1).await;
                !listed.is_empty()
            }
        })
        .await;
        if self.is_stuck() {
            // It logs in the same step in which it begins to listen. A signal before that ends it
            // at once.
            eventually("it listens", async || listens(process.child.id())).await;
        }
        if program == HELLO && output == Output::Full {
            // Its log blocks the task that writes to it: its last line is this one, after it is
            // listed.
            process.line("connected").await;
        }
        let call = if program == NODE && !is_twice { Some(begin_call(&listed[0]).await) } else { None };
        process.take_output(output);
        process.signal(signal);
        if is_twice {
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_millis(20)).await;
                process.signal(signal);
            }
        }
        if let Some(mut caller) = call {
            assert_eq!(caller.next().await.expect("an answer")["key"], 1, "calls in flight finish: {self:?}");
            drop(caller);
        }
        let status = process.ended().await;
        eventually("no node is listed", async || observer.ask(2).await.is_empty()).await;
        if !is_twice && !self.is_stuck() && [GATEWAY, GOODS, HELLO, NODE].contains(&program) {
            let name = listed[0]["name"].as_str().unwrap();
            let told = last_event(name, &distributor).await;
            // Before it knows the Distributor's version it may only close the connection.
            let is_in_order = [" leave  (revision", " closed  (revision"].iter().any(|word| told.contains(word));
            assert!(is_in_order, "it leaves in order: {self:?}: {told}");
        }
        status
    }
}

/// The last thing that has happened to a node, as the Distributor says.
async fn last_event(name: &str, distributor: &str) -> String {
    let why = tokio::process::Command::new(DISTRIBUTOR).args(["why", name, "--at", distributor]).output();
    let told = why.await.unwrap();
    String::from_utf8(told.stdout).unwrap().lines().last().unwrap_or_default().to_owned()
}

/// Makes the node that is listed so begin a call that takes a while.
async fn begin_call(node: &serde_json::Value) -> Peer {
    let address = format!("127.0.0.1:{}", node["port"]).parse().unwrap();
    let mut caller = Peer::connect(address).await;
    caller.send_packet(&json!({ "uri": "/slow", "method": "POST", "key": 1, "params": { "ms": 700 } })).await;
    caller.send_packet(&json!({ "uri": "/who", "method": "GET", "key": 2, "params": {} })).await;
    assert_eq!(caller.next().await.expect("an answer")["key"], 2, "the slow call has begun");
    caller
}

/// Whether a process has a socket that listens.
fn listens(pid: u32) -> bool {
    let listens = || {
        let process = procfs::process::Process::new(i32::try_from(pid).unwrap())?;
        let is_own = |inode: u64| {
            let mut files = process.fd().ok()?;
            files.find(|file| file.as_ref().is_ok_and(|file| file.target == FDTarget::Socket(inode)))
        };
        let entries = process.tcp()?;
        Ok::<_, ProcError>(entries.iter().any(|entry| entry.state == TcpState::Listen && is_own(entry.inode).is_some()))
    };
    listens().unwrap_or(false)
}

#[tokio::test(flavor = "multi_thread")]
async fn rs19_c1_programs_stop_whatever_their_output_does() {
    use Output::{AlwaysFull, Closed, Dead, Full, NoSpace, Terminal};

    let mut cases = Vec::new();
    for program in [DISTRIBUTOR, GATEWAY, GOODS, HELLO, NODE, SHOP] {
        for output in [Terminal, Dead, Full, AlwaysFull, Closed, NoSpace] {
            for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
                let case = Case { program, variant: Variant::Usual, output, signal, is_twice: false };
                if program == HELLO {
                    cases.push(Case { variant: Variant::Plain, ..case });
                }
                if program == HELLO && output == NoSpace {
                    // Its own log panics at the first line, and `main` with it.
                    continue;
                }
                if program == GATEWAY && signal == Signal::HUP && output != Terminal {
                    // A gateway that has no terminal goes on.
                    continue;
                }
                cases.push(case);
                if matches!(output, Terminal | AlwaysFull) {
                    cases.push(Case { is_twice: true, ..case });
                }
                if program == GATEWAY && matches!(output, Terminal | Full) {
                    cases.push(Case { variant: Variant::WithFile, ..case });
                }
            }
        }
    }
    let ends = iter(cases).map(async |case| {
        let status = case.end().await;
        let expected: &[i32] = match case {
            // Its own log blocks it, so it is ended after the announced time.
            _ if case.is_stuck() && (!case.is_twice || case.signal == Signal::HUP) => &[1],
            // A terminal that is closed is often told twice.
            Case { is_twice: false, .. } | Case { signal: Signal::HUP, .. } => &[0],
            // It may already have ended.
            Case { is_twice: true, .. } => &[130, 0],
        };
        let is_right = status.code().is_some_and(|code| expected.contains(&code));
        (!is_right).then(|| format!("{case:?}: {status}"))
    });
    let wrong: Vec<String> = ends.buffer_unordered(10).filter_map(async |wrong| wrong).collect().await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn rs21_what_stops_says_so_to_the_distributor() {
    let cluster = Cluster::start();
    let (distributor, listen) = (cluster.address.to_string(), pick_address().to_string());
    for (program, name, arguments) in [
        (GATEWAY, "gate", &["--listen", &listen, "--admin", "off", "--distributor", &distributor][..]),
        (GOODS, "goods", &["--distributor", &distributor]),
        (NODE, "who", &[&distributor]),
    ] {
        for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
            let mut process = Process::start("setsid", &[&[program], arguments].concat());
            process.line("connected").await;
            process.signal(if program == GATEWAY && signal == Signal::HUP { Signal::TERM } else { signal });
            assert_eq!(process.ended().await.code(), Some(0));
            let last = last_event(name, &distributor).await;
            assert!(last.contains(" leave  (revision"), "{name}: {last}");
        }
    }
}

/// A gateway that was started from the shell of a terminal. Its log goes to a file.
struct GatewayAtTerminal {
    shell: Program,
    at: SocketAddr,
    folder: tempfile::TempDir,
}

impl GatewayAtTerminal {
    /// `line` is what the shell is told; `{}` stands for the gateway.
    async fn start(line: &str, has_file: bool) -> Self {
        let (at, folder) = (pick_address(), tempfile::tempdir().unwrap());
        std::fs::write(folder.path().join("gateway.toml"), "idle_timeout = \"10s\"\n").unwrap();
        let mut gateway = format!("{GATEWAY} --listen {at} --admin off");
        if has_file {
            gateway.push_str(&format!(" --config {}/gateway.toml", folder.path().display()));
        }
        gateway.push_str(&format!(" > {}/log 2>&1", folder.path().display()));
        let shell = Program::start_at(Terminal::open(), "bash", &["-c", &line.replace("{}", &gateway)]);
        eventually("it listens", async || TcpStream::connect(at).await.is_ok()).await;
        let gateway = Self { shell, at, folder };
        gateway.logs("listening", 1).await;
        gateway
    }

    fn close_terminal(&mut self) {
        self.shell.terminal.take().unwrap().close();
    }

    fn signal(&self, signal: Signal) {
        let (pid, _) = net::port_owner(self.at.port()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    async fn logs(&self, text: &str, times: usize) {
        let count = || std::fs::read_to_string(self.folder.path().join("log")).unwrap().matches(text).count();
        eventually(text, async || count() >= times).await;
    }

    async fn ends(&self) {
        eventually("the port is free", async || std::net::TcpListener::bind(self.at).is_ok()).await;
        self.logs("stopped", 1).await;
    }
}

const RELOADED: &str = "the configuration has been reloaded";
const NO_FILE: &str = "there is nothing to read again";

#[tokio::test]
async fn rs20_c6_a_gateway_ends_with_the_terminal_that_it_was_started_from() {
    for (line, has_file) in [("exec {}", false), ("exec {}", true), ("{}", false), ("{}", true)] {
        let mut gateway = GatewayAtTerminal::start(line, has_file).await;
        gateway.close_terminal();
        gateway.ends().await;
    }
    // A shell that is ended by SIGHUP passes it on to its jobs, and the terminal is closed a moment
    // later.
    for has_file in [false, true] {
        let mut gateway = GatewayAtTerminal::start("set -m; {} & wait", has_file).await;
        gateway.signal(Signal::HUP);
        if has_file {
            gateway.logs(RELOADED, 1).await;
        }
        gateway.close_terminal();
        gateway.ends().await;
    }
}

#[tokio::test]
async fn rs20_a_gateway_that_is_to_outlive_its_terminal_does() {
    for (has_file, text) in [(true, RELOADED), (false, NO_FILE)] {
        let mut gateway = GatewayAtTerminal::start("exec nohup {}", has_file).await;
        gateway.close_terminal();
        gateway.logs(text, 1).await;
        gateway.signal(Signal::HUP);
        gateway.logs(text, 2).await;
        gateway.signal(Signal::TERM);
        gateway.ends().await;
    }
    // No signal comes when the terminal is closed.
    let mut gateway = GatewayAtTerminal::start("set -m; {} & disown; wait", true).await;
    gateway.close_terminal();
    // After that, a signal is about something else.
    tokio::time::sleep(Duration::from_millis(2100)).await;
    gateway.signal(Signal::HUP);
    gateway.logs(RELOADED, 1).await;
    gateway.signal(Signal::TERM);
    gateway.ends().await;
}

#[tokio::test]
async fn rs20_a_gateway_without_a_terminal_reads_its_file_at_sighup() {
    let files = GatewayFiles::new();
    let file = files.write("idle_timeout = \"10s\"\n");
    for (more, text) in [(&["--config", file.to_str().unwrap()][..], RELOADED), (&[], NO_FILE)] {
        let listen = pick_address().to_string();
        let arguments = [&[GATEWAY, "--listen", &listen, "--admin", "off"], more].concat();
        let gateway = Process::start("setsid", &arguments);
        gateway.line("listening").await;
        gateway.signal(Signal::HUP);
        gateway.line(text).await;
        assert_eq!(gateway.terminate().await.code(), Some(0));
    }
}

#[tokio::test]
async fn rs20_what_is_started_with_nohup_outlives_its_terminal() {
    let cluster = Cluster::start();
    let at = pick_address();
    let (listen, distributor) = (at.to_string(), cluster.address.to_string());
    let shell = |line: &str| Program::start_at(Terminal::open(), "sh", &["-c", line]);
    let mut node = shell(&format!("exec nohup {NODE} {distributor} > /dev/null 2>&1"));
    let mut registry = shell(&format!("exec nohup {DISTRIBUTOR} --listen {listen} > /dev/null 2>&1"));
    let mut observer = cluster.peer().await;
    eventually("both are up", async || TcpStream::connect(at).await.is_ok() && !observer.ask(1).await.is_empty()).await;
    for program in [&mut node, &mut registry] {
        program.signal(Signal::HUP);
        program.signal(Signal::HUP);
    }
    let port = u16::try_from(observer.ask(2).await[0]["port"].as_u64().unwrap()).unwrap();
    let mut caller = Peer::connect(SocketAddr::from(([127, 0, 0, 1], port))).await;
    caller.send_packet(&json!({ "uri": "/slow", "method": "GET", "key": 1, "params": { "ms": 300 } })).await;
    assert_eq!(caller.next().await.expect("an answer")["key"], 1);
    assert!(node.is_running() && registry.is_running() && TcpStream::connect(at).await.is_ok());
    for program in [&mut node, &mut registry] {
        program.signal(Signal::TERM);
        assert_eq!(program.ended().await.code(), Some(0));
    }
}

#[tokio::test]
async fn rs20_the_javascript_examples_leave_in_order_when_their_terminal_is_closed() {
    if !legacy_peers_can_run() {
        return;
    }
    let cluster = Cluster::start();
    let distributor = cluster.address.to_string();
    for (file, name) in [("goods.js", "goods"), ("service.js", "hello"), ("web.js", "web")] {
        for signal in [Signal::HUP, Signal::INT, Signal::TERM] {
            let file = example(file);
            let arguments = [file.to_str().unwrap(), "--port", "0", "--distributor", &distributor];
            let mut node = Program::start_at(Terminal::open(), "node", &arguments);
            let registered = format!("registered as {name}");
            eventually(&registered, async || node.terminal.as_ref().unwrap().shown().contains(&registered)).await;
            node.signal(signal);
            let status = node.ended().await;
            // With its terminal gone, Node.js cannot end by itself.
            let expected = if signal == Signal::HUP { (None, Some(1)) } else { (Some(0), None) };
            assert_eq!((status.code(), status.signal()), expected, "{name} {signal:?}");
            let last = last_event(name, &distributor).await;
            // Version 1 has no word for it.
            let word = if name == "goods" { " closed  (" } else { " leave  (" };
            assert!(last.contains(word), "{name} {signal:?}: {last}");
        }
    }
}
