//! Calls to members whose latencies are as noisy as on a busy machine, on a clock of their own: who
//! gets how many of them.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

use super::*;

/// A member that works for each call, and that the system lets wait now and then.
struct SimulatedMember {
    address: SocketAddr,
    load: Load,
    /// How long it works for a call, in microseconds.
    work_us: f64,
    /// The time until which the system lets it wait.
    paused_until: Cell<u64>,
    /// The calls that it got.
    calls: Cell<u32>,
}

impl Member for SimulatedMember {
    type Address = SocketAddr;

    fn address(&self) -> &SocketAddr {
        &self.address
    }

    fn candidate_address(&self) -> (SocketAddr, Option<&Path>) {
        (self.address, None)
    }

    fn load(&self) -> &Load {
        &self.load
    }

    fn readiness(&self, _now: Instant) -> Readiness {
        Readiness::Ready
    }

    fn weight(&self) -> u16 {
        100
    }
}

/// Members, their callers, and a clock in microseconds.
struct World {
    pool: Pool<SimulatedMember>,
    start: Instant,
    now: u64,
    rng: Rng,
    /// What happens next: when, and the call that ends then. `None` is a caller's pause.
    events: BinaryHeap<Reverse<(u64, Option<CallUnderWay>)>>,
    /// How long a caller waits between two calls.
    pause_us: u64,
}

/// The member that is called, and when the call began.
type CallUnderWay = (usize, u64);

const SECOND: u64 = 1_000_000;

impl World {
    /// Members that have been connected for a minute, and callers.
    fn new(work_us: &[f64], callers: usize, pause_us: u64, seed: u64) -> Self {
        fastrand::seed(seed);
        let mut world = Self::with(work_us, Pool::new(MAX_SUBSET, Turns::default()), seed);
        world.pause_us = pause_us;
        for caller in 0..callers {
            world.events.push(Reverse((world.now + caller as u64 * 7, None)));
        }
        world
    }

    fn with(work_us: &[f64], pool: Pool<SimulatedMember>, seed: u64) -> Self {
        let (rng, events) = (Rng::with_seed(seed), BinaryHeap::new());
        let mut world = Self { pool, start: Instant::now(), now: 60 * SECOND, rng, events, pause_us: 0 };
        work_us.iter().for_each(|work| world.join(*work, 0));
        world
    }

    /// Sets for how long a member works for each call from now on.
    fn work(&mut self, member: usize, work_us: f64) {
        self.pool.members[member].work_us = work_us;
    }

    fn at(&self, us: u64) -> Instant {
        self.start + Duration::from_micros(us)
    }

    fn join(&mut self, work_us: f64, at: u64) {
        let port = 1 + self.pool.members().len() as u16;
        let load = Load::new(self.at(at).into_std());
        load.record_connect(self.at(at).into_std());
        let address = SocketAddr::new("10.0.0.1".parse().unwrap(), port);
        let (paused_until, calls) = (Cell::new(0), Cell::new(0));
        self.pool.push(SimulatedMember { address, load, work_us, paused_until, calls });
        self.pool.rebuild_schedule();
    }

    /// How long a call takes: the member's work, more or less, and sometimes a wait.
    fn latency(&mut self, member: usize) -> u64 {
        let pause_begins = self.rng.u32(..400) == 0;
        let pause = self.rng.u64(2_000..20_000);
        let member = &self.pool.members()[member];
        if pause_begins {
            member.paused_until.set(self.now + pause);
        }
        // Twice or half as long is usual.
        let normal = (0..6).map(|_| self.rng.f64()).sum::<f64>() - 3.0;
        let mut latency = member.work_us * (normal * 0.7).exp2();
        if self.rng.u32(..20) == 0 {
            latency += self.rng.f64() * 5_000.0;
        }
        latency as u64 + member.paused_until.get().saturating_sub(self.now)
    }

    /// Lets time pass, and returns how many calls each member got.
    fn run(&mut self, time: u64) -> Vec<u32> {
        let end = self.now + time;
        self.pool.members().iter().for_each(|member| member.calls.set(0));
        while let Some(Reverse((at, call))) = self.events.peek().copied().filter(|Reverse((at, _))| *at < end) {
            self.events.pop();
            self.now = at;
            let now = self.at(at);
            if let Some((member, started)) = call {
                let load = &self.pool.members()[member].load;
                load.record_response(now.into_std(), Duration::from_micros(at - started));
                load.end();
                self.events.push(Reverse((at + self.pause_us, None)));
                continue;
            }
            let picked = self.pool.pick(&PickOptions::default(), now, |_| {}).unwrap();
            picked.load.begin(now.into_std());
            picked.calls.set(picked.calls.get() + 1);
            let member = usize::from(picked.address.port()) - 1;
            let latency = self.latency(member);
            self.events.push(Reverse((at + latency.max(1), Some((member, at)))));
        }
        self.now = end;
        self.pool.members().iter().map(|member| member.calls.get()).collect()
    }
}

/// Shares of a whole, in thousandths.
fn shares(counts: &[u32]) -> Vec<u32> {
    let sum: u32 = counts.iter().sum();
    counts.iter().map(|count| (1000 * count + sum / 2) / sum.max(1)).collect()
}

/// Checks that members which work for `work_us` for each call get the `expected` shares of the
/// calls, in thousandths, whatever the random numbers are. Each caller makes one call after the
/// other.
#[track_caller]
fn check(work_us: &[f64], callers: usize, pause_us: u64, expected: &[RangeInclusive<u32>]) {
    for seed in 0..5 {
        let mut world = World::new(work_us, callers, pause_us, seed);
        world.run(2 * SECOND);
        let counts = world.run(2 * SECOND);
        let shares = shares(&counts);
        let fits = shares.iter().zip(expected).all(|(share, expected)| expected.contains(share));
        assert!(fits, "{work_us:?} {callers} {pause_us}: {shares:?} of {}, seed {seed}", counts.iter().sum::<u32>());
    }
}

#[test]
fn b10_equal_members_get_equal_shares_whatever_the_noise() {
    // Nothing but the turns decides: at most one call more.
    check(&[100.0, 100.0], 1, 0, &[499..=501, 499..=501]);
    check(&[100.0, 100.0], 1, 10_000, &[490..=510, 490..=510]);
    check(&[5000.0, 5000.0], 1, 10_000, &[490..=510, 490..=510]);
    // Of members that the system lets wait, the others do the work meanwhile.
    check(&[100.0, 100.0], 16, 0, &[450..=550, 450..=550]);
    check(&[2000.0, 2000.0], 16, 0, &[480..=520, 480..=520]);
    check(&[2000.0, 2000.0, 2000.0], 16, 0, &[310..=355, 310..=355, 310..=355]);
}

#[test]
fn a_clearly_slower_member_gets_few_calls() {
    check(&[2000.0, 20_000.0], 1, 0, &[995..=1000, 0..=5]);
    check(&[200.0, 2000.0], 1, 0, &[995..=1000, 0..=5]);
    check(&[2000.0, 20_000.0], 16, 0, &[960..=1000, 0..=40]);
    // One that is not clearly slower gets its turns.
    check(&[2000.0, 2400.0], 1, 0, &[490..=510, 490..=510]);
}

#[test]
fn a_member_that_becomes_slow_is_noticed_within_a_few_calls_and_called_again_when_it_is_not() {
    for seed in 0..5 {
        let mut world = World::new(&[2000.0, 2000.0], 1, 0, seed);
        world.run(2 * SECOND);
        world.work(1, 40_000.0);
        let slow = world.run(SECOND)[1];
        assert!(slow <= 5, "{slow} slow calls, seed {seed}");
        world.run(5 * SECOND);
        world.work(1, 2000.0);
        // It is tried again once in a while.
        world.run(6 * SECOND);
        let shares = shares(&world.run(SECOND));
        assert!((480..=520).contains(&shares[1]), "{shares:?}, seed {seed}");
    }
}

#[test]
fn b10_a_newcomer_has_its_fair_share_after_three_seconds() {
    for (callers, pause) in [(16, 0), (1, 0), (1, 10_000)] {
        for seed in 0..3 {
            let mut world = World::new(&[300.0, 300.0], callers, pause, seed);
            world.run(2 * SECOND);
            world.join(300.0, world.now);
            let first = shares(&world.run(SECOND / 2))[2];
            assert!(first <= 150, "spared at first: {first}");
            world.run(5 * SECOND / 2);
            let then = shares(&world.run(SECOND))[2];
            assert!((310..=355).contains(&then), "{then}, {callers} {pause}, seed {seed}");
        }
    }
}

#[test]
fn c9_turns_are_even_to_the_eye_at_a_persons_pace() {
    for seed in 0..20 {
        let mut world = World::new(&[300.0, 300.0], 1, SECOND, seed);
        // What the first calls find is not a reason to avoid a member.
        for _ in 0..4 {
            let counts = world.run(15 * SECOND);
            assert!(counts[0].abs_diff(counts[1]) <= 1, "{counts:?}, seed {seed}");
        }
        // One that has just started is not spared calls as few as these.
        let mut world = World::new(&[300.0], 1, SECOND, seed);
        world.run(15 * SECOND);
        world.join(300.0, world.now);
        let counts = world.run(15 * SECOND);
        assert!(counts[0].abs_diff(counts[1]) <= 1, "{counts:?}, seed {seed}");
    }
}

#[test]
fn c9_threads_take_turns_together() {
    /// Two that each take turns for themselves differ by one call at most. Many differ by more.
    const WORKERS: usize = 16;
    for seed in 0..20 {
        fastrand::seed(seed);
        let shared = SharedTurns::default();
        // Every second worker learned of the nodes in another order.
        let mut workers: Vec<World> = (0..WORKERS)
            .map(|_| World::with(&[100.0; 2], Pool::new(MAX_SUBSET, shared.of("GET/hello")), seed))
            .collect();
        for world in workers.iter_mut().step_by(2) {
            world.pool.members.reverse();
            world.pool.rebuild_schedule();
        }
        let mut counts = [0; 2];
        for _ in 0..15 {
            let world = &workers[fastrand::usize(..WORKERS)];
            let picked = world.pool.pick(&PickOptions::default(), world.at(world.now), |_| {}).unwrap();
            counts[usize::from(picked.address.port()) - 1] += 1;
        }
        assert!(i32::abs(counts[0] - counts[1]) <= 1, "{counts:?}, seed {seed}");
    }
}
