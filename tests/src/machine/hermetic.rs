//! Tests touch no well-known port: a Distributor, a gateway or a cache that happens to run on the
//! same machine must not meet them.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::Once;

use procfs::net::TcpNetEntry;
use procfs::process::{FDTarget, Process};

/// Ports that programs of the mesh, and what stands beside them, use unless told otherwise.
const WELL_KNOWN_PORTS: [u16; 9] = [6379, 8000, 8001, 8080, 8081, 8082, 9000, 9001, 9040];
/// Where programs look for a Distributor if the test does not say: no server listens there.
const NOWHERE: &str = "127.0.0.1:1";

/// The settings of a service. Node.js has other variables of this prefix.
const NODE_SETTINGS: [&str; 10] = [
    "NODE_LISTEN",
    "NODE_DISTRIBUTOR",
    "NODE_ADVERTISE",
    "NODE_ADMIN",
    "NODE_ZONE",
    "NODE_WEIGHT",
    "NODE_CACHE",
    "NODE_MAX_BUFFER_BYTES",
    "NODE_LOG_LEVEL",
    "NODE_LOG_FORMAT",
];

/// Hides the settings of the person who runs the tests from a program, and keeps it from using a
/// well-known port where the test names none.
pub fn isolate(command: &mut Command, arguments: &[&str]) {
    for (name, _) in std::env::vars_os() {
        let is_setting = |name: &str| {
            ["GATEWAY_", "DISTRIBUTOR"].iter().any(|prefix| name.starts_with(prefix)) || NODE_SETTINGS.contains(&name)
        };
        if name.to_str().is_some_and(is_setting) {
            command.env_remove(name);
        }
    }
    // The environment wins over a file.
    let mut words = arguments.iter().flat_map(|argument| argument.split_whitespace());
    let file = words.find(|word| *word == "--config").and_then(|_| words.next());
    let file = file.and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
    let says = |key: &str| file.lines().any(|line| line.trim_start().starts_with(key));
    for (name, value, key) in [("GATEWAY_DISTRIBUTOR", NOWHERE, "distributor"), ("GATEWAY_ADMIN", "off", "admin")] {
        if !says(key) {
            command.env(name, value);
        }
    }
    watch();
}

/// How often the system is asked whose a socket is. Its table is read in pieces while others come
/// and go, so that a socket may be missed.
const MAX_LOOKUPS: usize = 10;

/// Listens at the well-known ports with `WATCH_PORTS=1` in the environment, as in CI; with
/// `WATCH_PORTS=20001,20002`, at those. A test that connects to one, or a program that it started,
/// ends the whole run, with its command line; one that listens there finds the port taken.
///
/// # Panics
/// When another process listens at one of the ports: then nothing would be shown.
pub(crate) fn watch() {
    static WATCHES: Once = Once::new();
    let Ok(ports) = std::env::var("WATCH_PORTS") else { return };
    WATCHES.call_once(|| {
        let ports = if ports == "1" { WELL_KNOWN_PORTS.to_vec() } else { numbers(&ports) };
        for port in ports {
            let listener = TcpListener::bind(("127.0.0.1", port));
            let listener = listener.unwrap_or_else(|error| panic!("cannot watch port {port}: {error}"));
            std::thread::spawn(move || {
                while let Ok((_stream, peer)) = listener.accept() {
                    let watched = SocketAddr::from(([127, 0, 0, 1], port));
                    let found = (0..MAX_LOOKUPS).find_map(|_| owner(peer, watched));
                    let Some(program) = found.filter(is_ours) else { continue };
                    let words = program.cmdline().unwrap_or_default().join(" ");
                    let text = format!("a test connects to the watched port {port}: {words}\n");
                    // Straight, as what tests print is kept back.
                    let _ = std::io::stderr().write_all(text.as_bytes());
                    std::process::exit(101);
                }
            });
        }
    });
}

fn numbers(ports: &str) -> Vec<u16> {
    ports
        .split(',')
        .map(|port| port.parse().unwrap_or_else(|_| panic!("WATCH_PORTS={ports}: {port} is not a port")))
        .collect()
}

/// The process that connects from one address to the other, as far as the system tells. A socket
/// that is closed and waits may have the same local address: it belongs to no process.
fn owner(from: SocketAddr, to: SocketAddr) -> Option<Process> {
    let sockets = procfs::net::tcp().ok()?;
    let is_it = |socket: &&TcpNetEntry| socket.local_address == from && socket.remote_address == to;
    let inode = sockets.iter().find(is_it)?.inode;
    let owns = |process: &Process| {
        let mut descriptors = process.fd().into_iter().flatten().flatten();
        descriptors.any(|one| matches!(one.target, FDTarget::Socket(socket) if socket == inode))
    };
    procfs::process::all_processes().ok()?.flatten().find(owns)
}

/// Whether this process is it, or one that started it.
fn is_ours(process: &Process) -> bool {
    let ours = i32::try_from(std::process::id()).unwrap_or_default();
    let parent = |pid: &i32| Some(Process::new(*pid).ok()?.stat().ok()?.ppid);
    std::iter::successors(Some(process.pid()), parent).any(|pid| pid == ours)
}
