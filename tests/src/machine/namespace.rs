//! A machine of its own, as far as the network is concerned: a namespace at the other end of a
//! cable that can be cut.

use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{Process, can_run};

/// A network namespace with a cable to this one. It goes when dropped, with its rules.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    cable: String,
    /// This end of the cable.
    pub here: IpAddr,
    /// The other end, where processes of the namespace are.
    pub there: IpAddr,
    /// This end of the cable, by IPv6.
    pub here_v6: IpAddr,
    /// The other end, by IPv6.
    pub there_v6: IpAddr,
}

impl Namespace {
    /// A new one; `None` where it cannot be made and the test may be [skipped](crate::can_run).
    pub fn new() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        let name = format!("mesh{process}x{number}");
        let cable = format!("m{}x{number}", process % 1_000_000);
        // The remains of a run that was killed are removed.
        let subnet = format!("10.{}.{number}", 100 + process % 100);
        let (here, there) = (format!("{subnet}.1"), format!("{subnet}.2"));
        let subnet_v6 = format!("fd00:{:x}:{number:x}", process % 0xffff);
        let (here_v6, there_v6) = (format!("{subnet_v6}::1"), format!("{subnet_v6}::2"));
        let ends_v6 = (here_v6.parse().ok()?, there_v6.parse().ok()?);
        let (here_v6, there_v6) = ends_v6;
        let net = Self { name, cable, here: here.parse().ok()?, there: there.parse().ok()?, here_v6, there_v6 };
        let (name, cable) = (net.name.as_str(), net.cable.as_str());
        let far = format!("{cable}p");
        let made = run("ip", &["netns", "add", name])
            && run("ip", &["link", "add", cable, "type", "veth", "peer", "name", &far, "netns", name])
            && run("ip", &["addr", "add", &format!("{here}/24"), "dev", cable])
            && run("ip", &["link", "set", cable, "up"])
            && run("ip", &["-n", name, "addr", "add", &format!("{there}/24"), "dev", &far])
            && run("ip", &["-n", name, "link", "set", &far, "up"])
            && run("ip", &["-n", name, "link", "set", "lo", "up"])
            && run("ip", &["addr", "add", &format!("{here_v6}/64"), "dev", cable, "nodad"])
            && run("ip", &["-n", name, "addr", "add", &format!("{there_v6}/64"), "dev", &far, "nodad"])
            && run("iptables", &["--version"]);
        can_run("namespaces", "run it as root, with iproute2 and iptables", made).then_some(net)
    }

    /// A container on this machine: a namespace behind this one, which translates the addresses of
    /// what comes out of it.
    pub fn container(&self) -> Container<'_> {
        let (name, cable) = (format!("{}c", self.name), format!("{}c", self.cable));
        let far = format!("{cable}p");
        let (gate, inside) = ("172.31.255.1", "172.31.255.2");
        let made = run("ip", &["netns", "add", &name])
            && run(
                "ip",
                &["-n", &self.name, "link", "add", &cable, "type", "veth", "peer", "name", &far, "netns", &name],
            )
            && run("ip", &["-n", &self.name, "addr", "add", &format!("{gate}/24"), "dev", &cable])
            && run("ip", &["-n", &self.name, "link", "set", &cable, "up"])
            && run("ip", &["-n", &name, "addr", "add", &format!("{inside}/24"), "dev", &far])
            && run("ip", &["-n", &name, "link", "set", &far, "up"])
            && run("ip", &["-n", &name, "link", "set", "lo", "up"])
            && run("ip", &["-n", &name, "route", "add", "default", "via", gate])
            && self.run("sh", &["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]);
        assert!(made, "a namespace behind another one");
        self.rule(&["-t", "nat", "-A", "POSTROUTING", "-s", "172.31.255.0/24", "-j", "MASQUERADE"]);
        Container { host: self, name, inside }
    }

    /// Defines names in the namespace, beside `localhost`, by lines of `/etc/hosts`. Processes that
    /// run there see it.
    pub fn set_hosts(&self, lines: &str) {
        let folder = Path::new("/etc/netns").join(&self.name);
        std::fs::create_dir_all(&folder).unwrap();
        // No name server: what is not there is not known, at once.
        std::fs::write(folder.join("resolv.conf"), "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n").unwrap();
        // In place: a process has the file, not its name.
        std::fs::write(folder.join("hosts"), format!("127.0.0.1 localhost\n{lines}\n")).unwrap();
    }

    /// Runs a program in the namespace to its end. Returns whether it succeeded.
    pub fn run(&self, program: &str, arguments: &[&str]) -> bool {
        run("ip", &[&["netns", "exec", &self.name, program], arguments].concat())
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

    /// Removes all rules.
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
        let _ = std::fs::remove_dir_all(Path::new("/etc/netns").join(&self.name));
        // The cable goes with its end.
        run("ip", &["link", "del", &self.cable]);
        run("ip", &["netns", "del", &self.name]);
    }
}

/// A container, with a network of its own that others reach by published ports.
#[derive(Debug)]
pub struct Container<'a> {
    host: &'a Namespace,
    name: String,
    inside: &'static str,
}

impl Container<'_> {
    /// Connections to `port` of the machine go to `inner` of the container.
    pub fn publish(&self, port: u16, inner: u16) {
        let (port, to) = (port.to_string(), format!("{}:{inner}", self.inside));
        self.host.rule(&[
            "-t",
            "nat",
            "-A",
            "PREROUTING",
            "-p",
            "tcp",
            "--dport",
            &port,
            "-j",
            "DNAT",
            "--to-destination",
            &to,
        ]);
    }

    /// Starts a program in the container.
    pub fn start(&self, program: impl AsRef<Path>, arguments: &[&str]) -> Process {
        let program = program.as_ref().to_str().expect("paths of tests are text").to_owned();
        let mut all = vec!["netns", "exec", &self.name, &program];
        all.extend(arguments);
        Process::start("ip", &all)
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        run("ip", &["netns", "del", &self.name]);
    }
}

fn run(program: &str, arguments: &[&str]) -> bool {
    let quiet = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet.is_ok_and(|status| status.success())
}
