//! Programs that tests start, watch, and kill.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::machine::hermetic::isolate;
use crate::{PATIENCE, eventually};

/// A running program whose output is read line by line. It is killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

/// How much of a program's output is shown when a test fails: the end of it, where the cause is.
const SHOWN_LINES: usize = 100;

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let lines = self.lines.lock().unwrap();
            let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
            eprintln!("the last of {} lines of process {:?}:\n{}", lines.len(), self.child.id(), shown.join("\n"));
        }
    }
}

impl Process {
    /// Starts a program.
    pub fn start(program: impl AsRef<Path>, arguments: &[&str]) -> Self {
        Self::start_with(program, arguments, &[])
    }

    /// Starts a program with more environment.
    pub fn start_with(program: impl AsRef<Path>, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(program.as_ref());
        isolate(command.as_std_mut(), arguments);
        let mut child = command
            .args(arguments)
            .envs(environment.iter().copied())
            // A version 1 peer ends when its standard input does: no orphans.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", program.as_ref().display()));
        let lines = Arc::default();
        collect(child.stdout.take().unwrap(), Arc::clone(&lines));
        collect(child.stderr.take().unwrap(), Arc::clone(&lines));
        Self { child, lines }
    }

    /// Starts an emulation of a version 1 peer: `distributor`, `service` or `gateway`.
    pub fn legacy(program: &str, arguments: &[&str]) -> Self {
        let file = fixtures().join("v1").join(format!("{program}.js"));
        let mut all = vec![file.to_str().unwrap(), "--exit-with-parent"];
        all.extend(arguments);
        Self::start("node", &all)
    }

    /// Everything it has printed so far.
    pub fn output(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    /// Waits until a line has this text, and gives that line.
    pub async fn line(&self, text: &str) -> String {
        let find = || self.lines.lock().unwrap().iter().find(|line| line.contains(text)).cloned();
        eventually(text, async || find().is_some()).await;
        find().unwrap_or_else(|| panic!("no line with {text} in\n{}", self.output()))
    }

    /// The port in its line `listening …`.
    pub async fn port(&self) -> u16 {
        let line = self.line("listening").await;
        let digits: String = line
            .rsplit_once("127.0.0.1:")
            .or_else(|| line.rsplit_once("listening "))
            .map(|(_, rest)| rest.chars().take_while(char::is_ascii_digit).collect())
            .unwrap();
        digits.parse().unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// `kill -9`, and waits for the end.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Sends SIGTERM, and returns how it ended.
    pub async fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended().await
    }

    /// Waits until the process ends by itself, and returns how.
    pub async fn ended(&mut self) -> ExitStatus {
        self.ended_within(PATIENCE).await
    }

    /// Waits for this long until the process ends by itself, and returns how.
    pub async fn ended_within(&mut self, patience: Duration) -> ExitStatus {
        match timeout(patience, self.child.wait()).await {
            Ok(status) => status.unwrap(),
            Err(_) => panic!("it does not end:\n{}", self.output()),
        }
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// How long it has worked since it began. On a busy machine that says more than the clock.
    pub fn cpu_time(&self) -> Duration {
        let stat = procfs::process::Process::new(self.pid().as_raw_nonzero().get()).unwrap().stat().unwrap();
        Duration::from_millis((stat.utime + stat.stime) * 1000 / procfs::ticks_per_second())
    }

    /// Waits for `done`, for as long as this process has not worked for more than `most`; `None`
    /// after that. Drops `done` then.
    pub async fn while_it_works<T>(&self, most: Duration, done: impl Future<Output = T>) -> Option<T> {
        let before = self.cpu_time();
        let tires = async {
            while self.cpu_time() < before + most {
                sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            biased;
            done = done => Some(done),
            () = tires => None,
        }
    }

    /// The number of the process.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id().expect("it runs")).unwrap()).unwrap()
    }
}

fn collect(output: impl AsyncRead + Unpin + Send + 'static, lines: Arc<Mutex<Vec<String>>>) {
    tokio::spawn(async move {
        let mut reader = BufReader::new(output).lines();
        while let Ok(Some(line)) = reader.next_line().await {
            lines.lock().unwrap().push(line);
        }
    });
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}
