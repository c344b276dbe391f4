//! Which connections of a worker are heavy, and which of these work in its present turn. Pure.

use std::net::IpAddr;
use std::time::Duration;

use crate::io::fair_queue::FairQueue;

/// How long heavy connections may work in a turn of a worker, all of them together. All other
/// connections wait for that long at most: about as long as a request takes.
pub(crate) const TURN_TIME: Duration = Duration::from_micros(200);
/// How long a connection may work each time it is polled without becoming heavy: a few times as
/// long as half of a small request takes, also on a slow or busy machine, and less than several
/// large reads and writes in a row do.
pub(crate) const MAX_LIGHT_TIME: Duration = Duration::from_micros(50);
/// The time by which it may exceed that in all: less than one whole slice of a flood, because
/// thousands of clients may come for one slice each. A heavy connection that is alone waits for
/// nothing, so it is better to be strict.
const FREE_EXCESS_TIME: Duration = Duration::from_micros(100);
/// At most this much of an excess is counted at a time, so that a stall of the machine is forgotten
/// after a dozen polls.
const MAX_EXCESS_TIME: Duration = Duration::from_micros(500);
/// A fifth (1 / this) of the polls of a light connection is measured, because reading the clock
/// twice for each costs as much as a twentieth of a small request: the first one, and each while
/// the last ones were long. The number is odd, so that a connection whose long polls alternate with
/// short ones is seen in both.
const SAMPLED_DIVISOR: u8 = 5;
/// Maximum number of heavy connections in a turn, if each works for an instant.
const MAX_AT_ONCE: usize = 32;
/// Maximum number of heavy connections that wait: more than a worker has.
const MAX_WAITING: usize = 1 << 20;

/// How long a connection has worked lately, each time it was polled: a leaky bucket, and a sample
/// of the polls while it is light.
#[derive(Debug, Default)]
pub(crate) struct WorkMeter {
    excess: Duration,
    is_heavy: bool,
    /// Polls until the next one that is measured.
    until_measured: u8,
}

/// The heavy connections of a worker that wait, by client, and how long others have worked in this
/// turn. `W` notifies one.
///
/// A turn is all that is ready at a moment. While heavy connections wait, as many of them work in
/// each turn as probably take [`TURN_TIME`], and clients take turns as in a [`FairQueue`].
#[derive(Debug)]
pub(crate) struct HeavyQueue<W> {
    waiting: FairQueue<W>,
    /// How long heavy connections have worked in this turn, and how often.
    worked: Duration,
    polls: usize,
    /// How many work in a turn.
    at_once: usize,
}

impl WorkMeter {
    /// Counts one poll of the connection, and returns whether it should be measured.
    pub(crate) fn begin_poll(&mut self) -> bool {
        let is_sampled = self.until_measured == 0;
        self.until_measured = if is_sampled { SAMPLED_DIVISOR } else { self.until_measured } - 1;
        is_sampled || self.excess > Duration::ZERO
    }

    /// Counts the time of a poll that was measured.
    pub(crate) fn record(&mut self, worked: Duration) {
        self.excess = (self.excess + worked).saturating_sub(MAX_LIGHT_TIME).min(MAX_EXCESS_TIME);
        // Half, so that one short poll does not end what many long ones have shown.
        self.is_heavy = self.excess > if self.is_heavy { FREE_EXCESS_TIME / 2 } else { FREE_EXCESS_TIME };
    }

    pub(crate) fn is_heavy(&self) -> bool {
        self.is_heavy
    }
}

impl<W> HeavyQueue<W> {
    pub(crate) fn new() -> Self {
        let waiting = FairQueue::new(MAX_AT_ONCE, 100, MAX_WAITING);
        Self { waiting, worked: Duration::ZERO, polls: 0, at_once: 1 }
    }

    /// Whether a heavy connection may work now, without having waited.
    pub(crate) fn has_time(&self) -> bool {
        self.waiting.waiting() == 0 && self.worked < TURN_TIME
    }

    /// Enqueues a connection of `client`; `None` when too many wait.
    pub(crate) fn enqueue(&mut self, client: IpAddr, waiter: W) -> Option<u64> {
        self.waiting.enqueue(client, waiter)
    }

    /// Removes a connection that waits.
    pub(crate) fn cancel(&mut self, client: IpAddr, ticket: u64) {
        self.waiting.cancel(client, ticket);
    }

    pub(crate) fn has_waiting(&self) -> bool {
        self.waiting.waiting() > 0
    }

    /// Counts the work of a heavy connection.
    pub(crate) fn record(&mut self, worked: Duration) {
        self.worked += worked;
        self.polls += 1;
    }

    /// Begins a turn, and gives those that work in it.
    pub(crate) fn next_turn(&mut self) -> Vec<W> {
        let (worked, polls) = (std::mem::take(&mut self.worked), std::mem::take(&mut self.polls));
        if polls > 0 {
            let fit = TURN_TIME.as_nanos() * polls as u128 / worked.as_nanos().max(1);
            // A turn of cheap ones says little about the next.
            let max = MAX_AT_ONCE.min(2 * self.at_once);
            self.at_once = usize::try_from(fit).unwrap_or(max).clamp(1, max);
        }
        let granted: Vec<_> = std::iter::from_fn(|| self.waiting.pop()).take(self.at_once).collect();
        granted
            .into_iter()
            .map(|(client, waiter)| {
                self.waiting.release(client);
                waiter
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::io::poll_slice::SLICE_TIME;

    const MICROSECOND: Duration = Duration::from_micros(1);

    /// Polls of a connection, in microseconds, again and again.
    #[track_caller]
    fn check(polls: &[u32], is_heavy: bool) {
        let mut meter = WorkMeter::default();
        for poll in polls.iter().cycle().take(1000) {
            if meter.begin_poll() {
                meter.record(MICROSECOND * *poll);
            }
        }
        assert_eq!(meter.is_heavy(), is_heavy, "{polls:?}");
    }

    #[test]
    fn a_connection_that_works_long_when_it_is_polled_is_heavy() {
        check(&[10], false);
        check(&[45], false);
        check(&[60], true);
        check(&[250], true);
        // Much work, and a wake-up for nothing.
        check(&[120, 2], true);
        check(&[2, 120], true);
        // A handshake, and requests.
        let mut polls = vec![10; 100];
        polls[0] = 500;
        check(&polls, false);
    }

    #[test]
    fn a_flood_is_heavy_after_its_first_slice() {
        let mut meter = WorkMeter::default();
        assert!(meter.begin_poll() && !meter.is_heavy());
        meter.record(SLICE_TIME);
        assert!(meter.is_heavy());
    }

    #[test]
    fn a_stall_of_the_machine_is_forgotten() {
        let mut meter = WorkMeter::default();
        meter.record(Duration::from_millis(20));
        assert!(meter.is_heavy());
        let polls = std::iter::from_fn(|| {
            meter.record(10 * MICROSECOND);
            meter.is_heavy().then_some(())
        });
        assert!(polls.count() < 12);
    }

    fn client(number: u8) -> IpAddr {
        [10, 0, 0, number].into()
    }

    fn fill(queue: &mut HeavyQueue<u8>, connections: u8, client: impl Fn(u8) -> IpAddr) {
        for number in 0..connections {
            queue.enqueue(client(number), number).unwrap();
        }
    }

    /// Lets each connection of the next turn work for `works` and queue again.
    fn turn(queue: &mut HeavyQueue<u8>, works: Duration) -> Vec<u8> {
        let granted = queue.next_turn();
        for number in &granted {
            queue.record(works);
            queue.enqueue(client(*number), *number).unwrap();
        }
        granted
    }

    #[test]
    fn as_many_work_in_a_turn_as_fit() {
        let mut queue = HeavyQueue::new();
        fill(&mut queue, 200, client);
        let sizes = |queue: &mut _, works| (0..8).map(|_| turn(queue, works).len()).collect::<Vec<_>>();
        assert_eq!(
            sizes(&mut queue, TURN_TIME / 10),
            [1, 2, 4, 8, 10, 10, 10, 10],
            "no more than twice as many as before"
        );
        assert_eq!(sizes(&mut queue, TURN_TIME)[1..], [1; 7]);
        assert_eq!(sizes(&mut queue, 2 * TURN_TIME), [1; 8], "one always does");
        assert_eq!(sizes(&mut queue, Duration::ZERO)[5..], [MAX_AT_ONCE; 3]);
    }

    #[test]
    fn none_starves() {
        let mut queue = HeavyQueue::new();
        fill(&mut queue, 100, client);
        let mut seen = [0; 100];
        for _ in 0..300 {
            turn(&mut queue, TURN_TIME / 3).into_iter().for_each(|number| seen[usize::from(number)] += 1);
        }
        assert!(seen.iter().all(|times| (8..=9).contains(times)), "{seen:?}");
    }

    #[test]
    fn a_client_with_many_connections_has_one_share() {
        let mut queue = HeavyQueue::new();
        fill(&mut queue, 100, |_| client(0));
        queue.enqueue(client(1), 100).unwrap();
        let turns = [queue.next_turn(), queue.next_turn(), queue.next_turn()].concat();
        assert_eq!(turns, [0, 1, 100], "the other client does not wait for a hundred");
    }

    /// Connections that come, work, come again and go in a random order, for many turns.
    fn simulate(seed: u64) {
        const CONNECTIONS: u8 = 100;
        const CLIENTS: u8 = 7;
        const TURNS: usize = 1000;
        /// Each client's connections wait for one another, and for one of each other client, in
        /// either list of the rotation.
        const MOST_TURNS: usize = 2 * (CONNECTIONS as usize + CLIENTS as usize);
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut queue = HeavyQueue::new();
        let client_of = |number: u8| client(number % CLIENTS);
        // The ticket of each connection that waits, and the turn in which it began to.
        let mut waits: HashMap<u8, (u64, usize)> = HashMap::new();
        for turn in 0..TURNS {
            for _ in 0..rng.usize(..20) {
                let number = rng.u8(..CONNECTIONS);
                match waits.remove(&number) {
                    Some((ticket, _)) if rng.u8(..4) == 0 => queue.cancel(client_of(number), ticket),
                    Some(wait) => drop(waits.insert(number, wait)),
                    None => {
                        let ticket = queue.enqueue(client_of(number), number).unwrap();
                        waits.insert(number, (ticket, turn));
                    }
                }
            }
            assert_eq!(queue.has_waiting(), !waits.is_empty(), "{seed}");
            let is_idle = waits.is_empty();
            let granted = queue.next_turn();
            assert_eq!(granted.is_empty(), is_idle, "{seed}: one always works");
            assert!(granted.len() <= MAX_AT_ONCE, "{seed}");
            for number in granted {
                let (_, since) = waits.remove(&number).expect("it waits");
                assert!(turn - since <= MOST_TURNS, "{seed}: {} turns", turn - since);
                queue.record(MICROSECOND * rng.u32(1..2 * u32::try_from(TURN_TIME.as_micros()).unwrap()));
            }
        }
    }

    #[test]
    fn none_is_lost_and_none_waits_for_long_in_any_order() {
        (0..200).for_each(simulate);
    }

    #[test]
    fn a_connection_need_not_wait_while_the_turn_has_time() {
        let mut queue = HeavyQueue::new();
        queue.record(TURN_TIME / 2);
        assert!(queue.has_time());
        queue.record(TURN_TIME / 2);
        assert!(!queue.has_time());
        let ticket = queue.enqueue(client(1), 1).unwrap();
        queue.enqueue(client(2), 2).unwrap();
        queue.cancel(client(1), ticket);
        assert_eq!(queue.next_turn(), [2]);
        assert!(queue.has_time() && !queue.has_waiting());
        queue.enqueue(client(2), 2).unwrap();
        assert!(!queue.has_time(), "others wait");
    }
}
