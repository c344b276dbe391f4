//! Starts the programs that are measured, pins them to a core, and reads their CPU time and memory.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// A process on core 0. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Daemon {
    /// Starts the Distributor that `cargo build --profile dist` has built, with limits that fit ten
    /// thousand nodes.
    pub(crate) async fn distributor(port: u16, arguments: &[&str]) -> Self {
        let listen = format!("127.0.0.1:{port}");
        let own = ["--listen", &listen, "--max-connections", "12000", "--legacy-list-bytes", "4000000"];
        Self::distributor_with(&[&own, arguments].concat()).await
    }

    /// Starts it with default settings.
    pub(crate) async fn default_distributor() -> Self {
        Self::distributor_with(&["--listen", "127.0.0.1:0"]).await
    }

    async fn distributor_with(arguments: &[&str]) -> Self {
        let program = std::env::current_exe().unwrap().with_file_name("distributor");
        assert!(program.exists(), "build it first: cargo build --profile dist");
        let mut child =
            Command::new(program).args(arguments).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        pin_to(child.id(), 0);
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = loop {
            let line = lines.next_line().await.unwrap().expect("it listens");
            if let Some((_, rest)) = line.split_once("127.0.0.1:").filter(|_| line.contains("listening")) {
                let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
                break SocketAddr::new("127.0.0.1".parse().unwrap(), digits.parse().unwrap());
            }
        };
        // A full pipe would block its log.
        tokio::task::spawn_local(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let daemon = Self { child, address };
        daemon.move_to(0);
        daemon
    }

    /// Starts one of this program's own servers.
    pub(crate) async fn server(arguments: &[&str]) -> Self {
        Self::announcing(std::env::current_exe().unwrap(), arguments).await.unwrap()
    }

    /// Starts a program that prints its address. Returns `None` if it is not installed.
    pub(crate) async fn announcing(program: impl AsRef<OsStr>, arguments: &[&str]) -> Option<Self> {
        let mut child = Command::new(program).args(arguments).stdout(Stdio::piped()).kill_on_drop(true).spawn().ok()?;
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines.next_line().await.unwrap().expect("it listens").parse().unwrap();
        Some(Self { child, address })
    }

    /// Starts any other server, and waits until it listens on `port`. Returns `None` if it is not
    /// installed, or does not listen within ten seconds.
    pub(crate) async fn other(program: &str, arguments: &[&str], port: u16) -> Option<Self> {
        let child = Command::new(program)
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .ok()?;
        pin_to(child.id(), 0);
        let address = SocketAddr::new("127.0.0.1".parse().unwrap(), port);
        for _ in 0..200 {
            if tokio::net::TcpStream::connect(address).await.is_ok() {
                let daemon = Self { child, address };
                // Threads that it had started before it was pinned stay where they were.
                daemon.move_to(0);
                return Some(daemon);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        None
    }

    /// Starts a process that uses all the time of core 0 that it can get.
    pub(crate) fn spinner() -> Child {
        let child = Command::new("sh").args(["-c", "while :; do :; done"]).kill_on_drop(true).spawn().unwrap();
        pin_to(child.id(), 0);
        child
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id().expect("it runs")).unwrap()).unwrap()
    }

    /// The user and system time that it has used.
    pub(crate) fn cpu(&self) -> Duration {
        cpu_of(&self.process())
    }

    /// Pins all its threads to this core.
    pub(crate) fn move_to(&self, core: usize) {
        for task in self.process().tasks().unwrap().flatten() {
            pin_to(u32::try_from(task.tid).ok(), core);
        }
    }

    /// Lowers the priority of all its threads.
    pub(crate) fn be_nice(&self, nice: i32) {
        for task in self.process().tasks().unwrap().flatten() {
            rustix::process::setpriority_process(Pid::from_raw(task.tid), nice).unwrap();
        }
    }

    /// The resident memory of the process.
    pub(crate) fn rss_bytes(&self) -> u64 {
        self.process().stat().unwrap().rss * procfs::page_size()
    }

    /// The most resident memory that it has had.
    pub(crate) fn peak_bytes(&self) -> u64 {
        self.process().status().unwrap().vmhwm.unwrap_or(0) * 1024
    }

    /// Sends SIGTERM, and waits until it has ended in order.
    pub(crate) async fn terminate(mut self) {
        rustix::process::kill_process(self.pid(), rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().await.unwrap().success(), "it ends in order");
    }

    /// Kills it (kill -9).
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    fn process(&self) -> procfs::process::Process {
        procfs::process::Process::new(self.pid().as_raw_nonzero().get()).unwrap()
    }
}

/// The user and system time that this process has used.
pub(crate) fn cpu_of_this_process() -> Duration {
    cpu_of(&procfs::process::Process::myself().unwrap())
}

fn cpu_of(process: &procfs::process::Process) -> Duration {
    let stat = process.stat().unwrap();
    #[expect(clippy::cast_precision_loss, reason = "no process has used 2^52 ticks")]
    Duration::from_secs_f64((stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64)
}

/// Gives this thread the lowest priority.
pub(crate) fn be_nicest() {
    // A failure only makes the measurement noisier.
    let _ = rustix::process::setpriority_process(None, 19);
}

/// Pins a process, or this one, to one core, if the machine has it.
pub(crate) fn pin_to(pid: Option<u32>, core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    let pid = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).unwrap()));
    // A failure only makes the measurement noisier.
    let _ = sched_setaffinity(pid, &set);
}
