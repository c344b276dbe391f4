//! A machine of its own, as far as the network is concerned: a namespace at the other end of a
//! cable that can be cut.

use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::Process;

/// A network namespace with a cable to this one. It goes when dropped, with its rules.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    cable: String,
    /// This end of the cable.
    pub here: IpAddr,
    /// The other end, where processes of the namespace are.
    pub there: IpAddr,
}

impl Namespace {
    /// A new one; `None`, with a line that says so, where that needs rights or tools that are not
    /// there. In CI it must work.
    #[expect(clippy::print_stderr, reason = "the person who runs the tests should know which were skipped")]
    pub fn new() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        let name = format!("mesh{process}x{number}");
        let cable = format!("m{}x{number}", process % 1_000_000);
        // What a run that was killed has left behind is out of the way.
        let subnet = format!("10.{}.{number}", 100 + process % 100);
        let (here, there) = (format!("{subnet}.1"), format!("{subnet}.2"));
        let net = Self { name, cable, here: here.parse().ok()?, there: there.parse().ok()? };
        let (name, cable) = (net.name.as_str(), net.cable.as_str());
        let far = format!("{cable}p");
        let made = run("ip", &["netns", "add", name])
            && run("ip", &["link", "add", cable, "type", "veth", "peer", "name", &far, "netns", name])
            && run("ip", &["addr", "add", &format!("{here}/24"), "dev", cable])
            && run("ip", &["link", "set", cable, "up"])
            && run("ip", &["-n", name, "addr", "add", &format!("{there}/24"), "dev", &far])
            && run("ip", &["-n", name, "link", "set", &far, "up"])
            && run("ip", &["-n", name, "link", "set", "lo", "up"])
            && run("iptables", &["--version"]);
        assert!(made || std::env::var_os("CI").is_none(), "CI needs network namespaces: root, iproute2 and iptables");
        if !made {
            eprintln!("skipped: no network namespaces here (they need root, iproute2 and iptables)");
        }
        made.then_some(net)
    }

    /// Starts a program in the namespace.
    pub fn start(&self, program: impl AsRef<Path>, arguments: &[&str]) -> Process {
        let program = program.as_ref().to_str().expect("paths of tests are text").to_owned();
        let mut all = vec!["netns", "exec", &self.name, &program];
        all.extend(arguments);
        Process::start("ip", &all)
    }

    /// Drops all packets that come in there, or go out from there.
    pub fn drop_packets(&self, chain: &str) {
        self.rule(&["-A", chain, "-j", "DROP"]);
    }

    /// Drops some of the packets of both directions.
    pub fn lose(&self, probability: &str) {
        for chain in ["INPUT", "OUTPUT"] {
            self.rule(&[
                "-A",
                chain,
                "-m",
                "statistic",
                "--mode",
                "random",
                "--probability",
                probability,
                "-j",
                "DROP",
            ]);
        }
    }

    /// Answers all that goes out from there with a reset.
    pub fn reset(&self) {
        self.rule(&["-A", "OUTPUT", "-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset"]);
    }

    /// No rules any more.
    pub fn heal(&self) {
        self.rule(&["-F"]);
    }

    /// Pulls the cable, or plugs it in.
    pub fn plug(&self, up: bool) {
        assert!(run("ip", &["link", "set", &self.cable, if up { "up" } else { "down" }]));
    }

    /// Limits what goes there, in kilobits per second.
    pub fn throttle(&self, kilobits: u32) {
        let rate = format!("{kilobits}kbit");
        let queue = ["tbf", "rate", &rate, "burst", "8kb", "latency", "500ms"];
        assert!(run("tc", &[&["qdisc", "replace", "dev", &self.cable, "root"], &queue[..]].concat()));
    }

    fn rule(&self, rule: &[&str]) {
        assert!(run("ip", &[&["netns", "exec", &self.name, "iptables", "-w"], rule].concat()), "{rule:?}");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The cable goes with its end.
        run("ip", &["link", "del", &self.cable]);
        run("ip", &["netns", "del", &self.name]);
    }
}

fn run(program: &str, arguments: &[&str]) -> bool {
    let quiet = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet.is_ok_and(|status| status.success())
}
