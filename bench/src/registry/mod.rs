//! The scenes of the Distributor: changes that are told to many nodes, starts, restarts, and nodes
//! that freeze, idle or flap.
//!
//! It must not use the SDK: ten thousand nodes have to fit into one thread, so each is little more
//! than a socket. Hostile peers are in `attacks`.

pub(crate) mod baseline;
mod brokers;
pub(crate) mod swarm;
pub(crate) mod witness;

use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use tokio::time::sleep;

use crate::daemon_process::Daemon;
use crate::registry::swarm::{Needs, Swarm, join};
use crate::report::{mb, ms, percentiles, row, title};

/// The port of a Distributor that is started again at the same address.
const PORT: u16 = 19_000;

/// Starts a Distributor, and `nodes` nodes, and waits until all know each other.
async fn settled(nodes: usize, arguments: &[&str]) -> (Daemon, Swarm) {
    let daemon = Daemon::distributor(0, arguments).await;
    let mut swarm = Swarm::new(daemon.address);
    swarm.start(nodes, false);
    swarm.complete(nodes).await;
    sleep(Duration::from_millis(1500)).await;
    (daemon, swarm)
}

/// Measures how long it takes to tell one change to all nodes.
pub(crate) async fn fan_out(nodes: usize, rounds: usize, alone: bool) {
    title(&format!("one change is told to {nodes} nodes: time until the last one knows it"));
    let (daemon, swarm) = settled(nodes, &["--pings-per-second", "1"]).await;
    let (mut joins, mut leaves) = (Vec::new(), Vec::new());
    let gap = Duration::from_millis(if nodes > 2000 { 400 } else { 100 });
    let before = daemon.cpu();
    for round in 0..rounds {
        let name = format!("x{round:06}");
        let told = swarm.watch(&name);
        let begin = Instant::now();
        let node = join(daemon.address, &name, round).await;
        told.await;
        joins.push(begin.elapsed());
        // Changes are far enough apart that none is merged with the one before.
        sleep(gap).await;
        let told = swarm.watch("\"reason\":");
        let begin = Instant::now();
        drop(node);
        told.await;
        leaves.push(begin.elapsed());
        sleep(gap).await;
    }
    swarm.check().await;
    let cpu_each = (daemon.cpu() - before).as_secs_f64() * 1e6 / (2 * rounds * nodes) as f64;
    for (what, times) in [("a join", &mut joins), ("a leave, or kill -9", &mut leaves)] {
        let (p50, p99) = percentiles(times);
        row(
            &format!("distributor: {what}"),
            &format!("p50 {:7.1} ms   p99 {:7.1} ms   {cpu_each:5.2} µs CPU each", ms(p50), ms(p99)),
        );
    }
    drop((daemon, swarm));
    let bare = Daemon::server(&["fan-out-floor"]).await;
    let before = bare.cpu();
    let (p50, p99) = percentiles(&mut baseline::fan_out(bare.address, nodes, 2 * rounds, gap).await);
    let cpu_each = (bare.cpu() - before).as_secs_f64() * 1e6 / (2 * rounds * nodes) as f64;
    row(
        "floor: a server that sends the same bytes",
        &format!("p50 {:7.1} ms   p99 {:7.1} ms   {cpu_each:5.2} µs CPU each", ms(p50), ms(p99)),
    );
    if !alone {
        brokers::fan_out(nodes, rounds).await;
    }
}

/// Measures many joins.
pub(crate) async fn storm(nodes: usize, seconds: u64) {
    title(&format!("1000 joins a second for {seconds} s, told to {nodes} nodes"));
    let (daemon, swarm) = settled(nodes, &["--pings-per-second", "1"]).await;
    let (before, begin) = (daemon.cpu(), Instant::now());
    let mut joined = Vec::new();
    while begin.elapsed() < Duration::from_secs(seconds) {
        let due = usize::try_from(begin.elapsed().as_millis()).unwrap().min(9000);
        while joined.len() < due {
            let number = swarm.make();
            joined.push(join(daemon.address, &format!("c{number:06}"), number).await);
        }
        sleep(Duration::from_millis(1)).await;
    }
    swarm.complete(nodes + joined.len()).await;
    let cpu = daemon.cpu() - before;
    let cpu_each = cpu.as_secs_f64() * 1e6 / (joined.len() * nodes) as f64;
    let mut latencies: Vec<_> =
        swarm.seen.latencies.take().into_iter().map(|us| Duration::from_micros(us.into())).collect();
    let (p50, p99) = percentiles(&mut latencies);
    row(
        &format!("{} joins", joined.len()),
        &format!(
            "{cpu_each:5.2} µs CPU for each change and node   time until told: p50 {:.0} ms, p99 {:.0} ms",
            ms(p50),
            ms(p99)
        ),
    );
}

/// Measures a start of all nodes at once.
pub(crate) async fn cold_start(nodes: usize, is_legacy: bool, needs: Option<usize>) {
    let version = if is_legacy { 1 } else { 2 };
    let known = needs.map_or_else(|| "all".to_owned(), |needs| format!("the {needs} others that it uses"));
    title(&format!("{nodes} nodes of version {version} start at once: time until each knows {known}"));
    let mut rounds = Vec::new();
    for _ in 0..if nodes > 5000 { 1 } else { 5 } {
        let daemon = Daemon::distributor(0, &[]).await;
        let mut swarm = Swarm::new(daemon.address);
        let begin = Instant::now();
        swarm.start_with(nodes, is_legacy, needs.map(|each| Needs { each, of: nodes }));
        swarm.complete(needs.unwrap_or(nodes)).await;
        rounds.push((begin.elapsed(), daemon.cpu(), swarm.seen.bytes.get(), daemon.rss_bytes()));
    }
    rounds.sort_unstable();
    let (time, cpu, bytes, rss) = rounds[rounds.len() / 2];
    let record = if is_legacy { 105 } else { 160 };
    let one_list_each = (nodes * needs.unwrap_or(nodes) * record) as f64;
    row(
        &format!("all nodes know {}", needs.map_or("all", |_| "them")),
        &format!(
            "{:7.2} s   {:6.2} s CPU   {:8.1} MB sent, {:.2} × one list for each node   {:.0} MB memory",
            time.as_secs_f64(),
            cpu.as_secs_f64(),
            mb(bytes),
            bytes as f64 / one_list_each,
            mb(rss)
        ),
    );
}

/// Measures a crash of the Distributor.
pub(crate) async fn restart(nodes: usize) {
    title(&format!("the Distributor of {nodes} nodes is killed (kill -9) and started again at once"));
    let daemon = Daemon::distributor(PORT, &[]).await;
    let mut swarm = Swarm::new(daemon.address);
    swarm.start(nodes, false);
    swarm.complete(nodes).await;
    sleep(Duration::from_secs(3)).await;
    swarm.nodes().iter().for_each(|node| node.fewest.set(usize::MAX));
    let bytes = swarm.seen.bytes.get();
    let begin = Instant::now();
    daemon.kill().await;
    swarm.until("the loss is noticed", |swarm| swarm.connected() == 0).await;
    let daemon = Daemon::distributor(PORT, &[]).await;
    swarm.until("all are back", |swarm| swarm.connected() == nodes).await;
    let back = begin.elapsed();
    sleep(Duration::from_secs(10)).await;
    swarm.complete(nodes).await;
    let fewest = swarm.nodes().iter().map(|node| node.fewest.get()).min().unwrap();
    row(
        "all nodes are registered again",
        &format!(
            "{:5.2} s after the kill   {:.2} s CPU   {:.1} MB sent   shortest list seen: {fewest} of {nodes}",
            back.as_secs_f64(),
            daemon.cpu().as_secs_f64(),
            mb(swarm.seen.bytes.get() - bytes)
        ),
    );
}

/// Measures nodes that stop reading while others come and go.
pub(crate) async fn frozen(nodes: usize, seconds: u64) {
    title(&format!(
        "100 changes a second for {seconds} s, told to {nodes} nodes; then one in twenty of them does not read"
    ));
    let mut before = None;
    for frozen in [0, nodes / 20] {
        let (daemon, swarm) = settled(nodes, &[]).await;
        let sleepers = &swarm.nodes()[nodes - frozen..];
        sleepers.iter().for_each(|node| node.frozen.set(true));
        let (rss, begin) = (daemon.rss_bytes(), Instant::now());
        let mut peak = rss;
        let mut joined = std::collections::VecDeque::new();
        let mut changes = 0;
        while begin.elapsed() < Duration::from_secs(seconds) {
            while changes * 10 < begin.elapsed().as_millis() {
                // Changes are joins and leaves in turn.
                if changes % 2 == 0 {
                    let number = swarm.make();
                    joined.push_back(join(daemon.address, &format!("c{number:06}"), number).await);
                } else {
                    joined.pop_front();
                }
                changes += 1;
            }
            peak = peak.max(daemon.rss_bytes());
            sleep(Duration::from_millis(1)).await;
        }
        let mut latencies: Vec<_> =
            swarm.seen.latencies.borrow().iter().map(|us| Duration::from_micros(u64::from(*us))).collect();
        let (p50, p99) = percentiles(&mut latencies);
        let ratio = before.replace(p99).map_or_else(String::new, |before| {
            format!(" ({:.2} × that without them)", p99.as_secs_f64() / before.as_secs_f64())
        });
        let (grown, peak) = (mb(peak.saturating_sub(rss)), mb(peak));
        row(
            &format!("{frozen} nodes do not read"),
            &format!(
                "time until others are told: p50 {:.1} ms, p99 {:.1} ms{ratio}   memory at most {peak:.0} MB, {grown:.1} MB more than before",
                ms(p50),
                ms(p99)
            ),
        );
        if frozen > 0 {
            drop(joined);
            let packets: Vec<u64> = sleepers.iter().map(|node| node.packets.get()).collect();
            sleepers.iter().for_each(|node| node.thaw());
            swarm.complete(nodes).await;
            let after = sleepers.iter().zip(packets).map(|(node, before)| node.packets.get() - before);
            let (least, most) = after.fold((u64::MAX, 0), |(least, most), n| (least.min(n), most.max(n)));
            row("when they read again", &format!("{least} to {most} packets until they know all"));
        }
    }
}

/// Measures nodes that do nothing.
pub(crate) async fn idle(nodes: usize, seconds: u64) {
    title(&format!("{nodes} registered nodes that do nothing for {seconds} s"));
    let daemon = Daemon::distributor(0, &[]).await;
    sleep(Duration::from_millis(500)).await;
    let base = daemon.rss_bytes();
    let mut swarm = Swarm::new(daemon.address);
    // They start in groups, because a cold start needs more memory for a moment.
    for group in 1..=10 {
        swarm.start(nodes * group / 10 - swarm.nodes().len(), false);
        swarm.complete(nodes * group / 10).await;
    }
    sleep(Duration::from_secs(10)).await;
    swarm.nodes().iter().for_each(|node| node.fewest.set(usize::MAX));
    let (rss, before) = (daemon.rss_bytes(), daemon.cpu());
    sleep(Duration::from_secs(seconds)).await;
    #[expect(clippy::cast_precision_loss, reason = "seconds are few")]
    let share = (daemon.cpu() - before).as_secs_f64() / seconds as f64;
    let fewest = swarm.nodes().iter().map(|node| node.fewest.get()).min();
    assert_eq!((swarm.connected(), fewest), (nodes, Some(usize::MAX)), "no node was lost, and no list was shorter");
    drop((daemon, swarm));
    let bare = Daemon::server(&["ping-floor"]).await;
    let clients = baseline::clients(bare.address, nodes).await;
    sleep(Duration::from_secs(2)).await;
    let before = bare.cpu();
    sleep(Duration::from_secs(seconds)).await;
    #[expect(clippy::cast_precision_loss, reason = "seconds are few")]
    let floor = (bare.cpu() - before).as_secs_f64() / seconds as f64;
    assert_eq!(clients.len(), nodes);
    row("floor: a server that only pings them", &format!("{:.2} % of a core", floor * 100.0));
    row(
        "the Distributor",
        &format!(
            "{:.1} MB without nodes   {:.1} kB for each node   {:.2} % of a core",
            mb(base),
            (rss - base) as f64 / nodes as f64 / 1e3,
            share * 100.0
        ),
    );
}

/// Measures a node that flaps.
pub(crate) async fn flap(nodes: usize, seconds: u64) {
    title(&format!("one node comes and goes ten times a second for {seconds} s; {nodes} others are told"));
    let (daemon, swarm) = settled(nodes, &[]).await;
    let before = swarm.seen.packets.get();
    let begin = Instant::now();
    let mut flaps = 0;
    while begin.elapsed() < Duration::from_secs(seconds) {
        let node = join(daemon.address, "flapper", 7).await;
        sleep(Duration::from_millis(50)).await;
        drop(node);
        sleep(Duration::from_millis(50)).await;
        flaps += 1;
    }
    let pushes = (swarm.seen.packets.get() - before) as f64 / nodes as f64;
    row(&format!("{flaps} joins and leaves"), &format!("{pushes:.1} packets to each other node"));
}

/// Measures nodes that hang, and then a Distributor that is mostly stopped.
pub(crate) async fn hung(nodes: usize, seconds: u64) {
    title(&format!("one of {nodes} nodes hangs with its connection open"));
    let (daemon, swarm) = settled(nodes, &[]).await;
    let (mut suspected, mut gone) = (Vec::new(), Vec::new());
    for number in 0..5 {
        let sleeper = &swarm.nodes()[nodes - 1 - number];
        sleeper.frozen.set(true);
        let begin = Instant::now();
        swarm.watch("\"suspect\":[").await;
        suspected.push(begin.elapsed());
        swarm.watch("\"reason\":\"hung\"").await;
        gone.push(begin.elapsed());
        sleeper.thaw();
        swarm.complete(nodes).await;
    }
    let ((suspect, worst_suspect), (gone, worst_gone)) = (percentiles(&mut suspected), percentiles(&mut gone));
    row(
        "a node that hangs",
        &format!(
            "is suspect after {:.1} s (worst {:.1}), and removed after {:.1} s (worst {:.1})",
            suspect.as_secs_f64(),
            worst_suspect.as_secs_f64(),
            gone.as_secs_f64(),
            worst_gone.as_secs_f64()
        ),
    );
    let (before, begin) = (swarm.seen.packets.get(), Instant::now());
    swarm.nodes().iter().for_each(|node| node.fewest.set(usize::MAX));
    while begin.elapsed() < Duration::from_secs(seconds) {
        kill_process(daemon.pid(), Signal::STOP).unwrap();
        sleep(Duration::from_millis(900)).await;
        kill_process(daemon.pid(), Signal::CONT).unwrap();
        sleep(Duration::from_millis(100)).await;
    }
    sleep(Duration::from_secs(2)).await;
    let fewest = swarm.nodes().iter().map(|node| node.fewest.get().min(nodes)).min().unwrap();
    row(
        &format!("a Distributor that runs a tenth of {seconds} s"),
        &format!(
            "{} nodes removed by mistake   {} lists and changes told",
            nodes - fewest.min(nodes),
            swarm.seen.packets.get() - before
        ),
    );
}
