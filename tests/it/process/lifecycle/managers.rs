//! Managers that start and stop programs: systemd, a container, a small init.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tests::{Cluster, Process, can_run, eventually, pick_address};
use tokio::net::TcpStream;

use crate::programs::{DISTRIBUTOR, GATEWAY, GOODS, HELLO, NODE, SHOP};

/// The socket on which systemd listens.
struct Systemd {
    socket: tokio::net::UnixDatagram,
    path: String,
    _folder: tempfile::TempDir,
}

impl Systemd {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify").to_str().unwrap().to_owned();
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket: tokio::net::UnixDatagram::from_std(socket).unwrap(), path, _folder: folder }
    }

    async fn is_told(&self, expected: &str) {
        let mut buffer = [0; 64];
        let told = tokio::time::timeout(Duration::from_secs(60), self.socket.recv(&mut buffer)).await;
        let bytes = told.expect(expected).unwrap();
        assert_eq!(std::str::from_utf8(&buffer[..bytes]).unwrap(), expected);
    }
}

#[tokio::test]
async fn up10_systemd_is_told_what_is_ready_which_process_it_is_and_that_it_stops() {
    let (cluster, systemd) = (Cluster::start(), Systemd::new());
    let distributor = cluster.address.to_string();
    let environment = [("NOTIFY_SOCKET", systemd.path.as_str())];
    for (program, arguments) in
        [(DISTRIBUTOR, &["--listen", "127.0.0.1:0"][..]), (NODE, &[&distributor]), (HELLO, &[&distributor, "plain"])]
    {
        let process = Process::start_with(program, arguments, &environment);
        systemd.is_told("READY=1").await;
        process.signal(Signal::TERM);
        systemd.is_told("STOPPING=1").await;
    }

    let at = pick_address();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let pid = || std::fs::read_to_string(&file).map(|text| text.trim().parse::<i32>().unwrap());
    let arguments = ["--listen", &at.to_string(), "--admin", "off", "--distributor", &distributor];
    let arguments = [&arguments[..], &["--pid-file", file.to_str().unwrap()]].concat();
    let mut old = Process::start_with(GATEWAY, &arguments, &environment);
    systemd.is_told("READY=1").await;
    old.line("listening").await;
    assert_eq!(pid().unwrap(), old.pid().as_raw_pid());
    old.signal(Signal::USR2);
    let ready = old.line("the new process is ready").await;
    let new: i32 = ready.rsplit_once("pid=").unwrap().1.trim().parse().unwrap();
    // The one that only drains says nothing of the service.
    systemd.is_told(&format!("MAINPID={new}")).await;
    assert_eq!(old.ended().await.code(), Some(0));
    assert!(TcpStream::connect(at).await.is_ok());
    eventually("the file has the id of the new one", async || pid().is_ok_and(|pid| pid == new)).await;
    kill_process(Pid::from_raw(new).unwrap(), Signal::TERM).unwrap();
    systemd.is_told("STOPPING=1").await;
    eventually("the new one ends", async || std::net::TcpListener::bind(at).is_ok()).await;
    eventually("the file is gone", async || pid().is_err()).await;
}

#[tokio::test]
async fn up10_the_new_process_writes_the_file_that_its_own_configuration_names() {
    let cluster = Cluster::start();
    let at = pick_address();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let write = |pid_file: &str| {
        let text = format!(
            "listen = \"{at}\"\nadmin = \"off\"\ndistributor = \"{}\"\npid_file = \"{}\"\n",
            cluster.address,
            path(pid_file).display()
        );
        std::fs::write(path("gateway.toml"), text).unwrap();
    };
    write("first");
    let mut old = Process::start(GATEWAY, &["--config", path("gateway.toml").to_str().unwrap()]);
    old.line("listening").await;
    let pid = |name: &str| std::fs::read_to_string(path(name)).map(|text| text.trim().parse::<i32>().unwrap());
    assert_eq!(pid("first").unwrap(), old.pid().as_raw_pid());
    write("second");
    old.signal(Signal::USR2);
    let ready = old.line("the new process is ready").await;
    let new: i32 = ready.rsplit_once("pid=").unwrap().1.trim().parse().unwrap();
    eventually("the new one has written its file", async || pid("second").is_ok_and(|pid| pid == new)).await;
    assert_eq!(old.ended().await.code(), Some(0));
    assert!(pid("first").is_err(), "nobody would remove it any more");
    kill_process(Pid::from_raw(new).unwrap(), Signal::TERM).unwrap();
    eventually("the file is gone", async || pid("second").is_err()).await;
}

/// A program in a namespace of processes, of which `words` begin the first one.
struct PidNamespace {
    unshare: Process,
}

impl PidNamespace {
    fn start(words: &[&str]) -> Self {
        let all = [&["-pf", "--kill-child", "--mount-proc"], words].concat();
        Self { unshare: Process::start("unshare", &all) }
    }

    fn child_of(process: Pid) -> Pid {
        let pid = process.as_raw_pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        Pid::from_raw(children.split_whitespace().next().unwrap().parse().unwrap()).unwrap()
    }

    /// The first process, seen from outside.
    fn first(&self) -> Pid {
        Self::child_of(self.unshare.pid())
    }
}

fn namespaces_can_be_made() -> bool {
    let can = std::process::Command::new("unshare").args(["-pf", "--mount-proc", "true"]).output();
    can_run("namespaces", "run it as root, with unshare", can.is_ok_and(|out| out.status.success()))
}

#[tokio::test]
async fn up9_the_first_process_of_a_container_stops_at_each_signal() {
    if !namespaces_can_be_made() {
        return;
    }
    let cluster = Cluster::start();
    let distributor = cluster.address.to_string();
    for (program, more, line) in [
        (DISTRIBUTOR, &[][..], "listening"),
        (GATEWAY, &["--admin", "off", "--distributor", &distributor], "connected"),
        (GOODS, &["--distributor", &distributor], "connected"),
        (SHOP, &["--instances", "1", "--admin", "off", "--distributor", "127.0.0.1:0"], "Ctrl-C closes it"),
    ] {
        for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
            let listen = pick_address().to_string();
            let mut namespace = PidNamespace::start(&[&[program, "--listen", &listen], more].concat());
            namespace.unshare.line(line).await;
            kill_process(namespace.first(), signal).unwrap();
            if program == GATEWAY && signal == Signal::HUP {
                namespace.unshare.line("there is nothing to read again").await;
                kill_process(namespace.first(), Signal::TERM).unwrap();
            }
            assert_eq!(namespace.unshare.ended().await.code(), Some(0), "{program} {signal:?}");
        }
    }
}

#[tokio::test]
async fn up9_below_an_init_a_gateway_stops_and_is_not_replaced() {
    if !namespaces_can_be_made() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // The name is what counts.
    let init = folder.path().join("tini");
    std::os::unix::fs::symlink("/bin/sh", &init).unwrap();
    let listen = pick_address().to_string();
    let line = format!("{GATEWAY} --listen {listen} --admin off & wait $!");
    let mut namespace = PidNamespace::start(&[init.to_str().unwrap(), "-c", &line]);
    namespace.unshare.line("listening").await;
    let gateway = PidNamespace::child_of(namespace.first());
    kill_process(gateway, Signal::USR2).unwrap();
    namespace.unshare.line("the init of this container would end the container with this process").await;
    // Shells start what is in the background with SIGINT ignored.
    kill_process(gateway, Signal::INT).unwrap();
    namespace.unshare.line("stopped").await;
    assert_eq!(namespace.unshare.ended().await.code(), Some(0));
}
