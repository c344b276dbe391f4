//! Fair shares of a number of permits: how many each client has, which requests wait, and which is
//! next. Pure.

use std::collections::VecDeque;
use std::net::IpAddr;

use foldhash::HashMap;

/// Permits, and the requests that wait for them, by client. `W` notifies a waiting request.
///
/// One client may have a multiple of the free permits (the dynamic threshold of Choudhury and
/// Hahne, known from the buffers of switches). So a single client has nearly all, two have half of
/// that each, and a permit is always left for the next client. Released permits go to the waiting
/// clients by rotation, however many requests of one client wait. Every other permit goes to a
/// client that has none, if one waits, so that many addresses with a few permits each do not keep a
/// new client waiting.
#[derive(Debug)]
pub(crate) struct FairQueue<W> {
    free: usize,
    /// Percent of the permits that one client alone may have.
    max_percent: usize,
    held: HashMap<IpAddr, usize>,
    queues: HashMap<IpAddr, Queue<W>>,
    /// Clients with a queue, by what they held when they began to wait.
    rotation: Rotation,
    /// The clients that were served last.
    last: Holding,
    waiting: usize,
    max_waiting: usize,
    tickets: u64,
}

/// The waiting requests of one client, each with its ticket, and the list in which the client is.
#[derive(Debug)]
struct Queue<W> {
    waiters: VecDeque<(u64, W)>,
    holding: Holding,
}

/// Whether a client held a permit when it began to wait.
#[derive(Clone, Copy, Debug)]
enum Holding {
    Permits,
    Nothing,
}

/// The clients that wait, the next one first.
#[derive(Debug, Default)]
struct Rotation {
    /// Those that hold a permit.
    holders: VecDeque<IpAddr>,
    /// Those that hold none.
    others: VecDeque<IpAddr>,
}

impl<W> FairQueue<W> {
    pub(crate) fn new(limit: usize, max_percent: u8, max_waiting: usize) -> Self {
        Self {
            free: limit,
            max_percent: usize::from(max_percent.clamp(1, 100)),
            held: HashMap::default(),
            queues: HashMap::default(),
            rotation: Rotation::default(),
            last: Holding::Permits,
            waiting: 0,
            max_waiting,
            tickets: 0,
        }
    }

    pub(crate) fn free(&self) -> usize {
        self.free
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// The permits that `client` has.
    pub(crate) fn held_by(&self, client: IpAddr) -> usize {
        self.held.get(&client).copied().unwrap_or(0)
    }

    /// Takes a permit, if `client` may have one now.
    pub(crate) fn try_acquire(&mut self, client: IpAddr) -> bool {
        if self.free == 0 {
            return false;
        }
        let held = self.held.entry(client).or_default();
        // With 90 percent: nine times the number of free permits.
        let is_allowed = self.max_percent == 100 || *held * (100 - self.max_percent) < self.free * self.max_percent;
        if is_allowed {
            *held += 1;
            self.free -= 1;
        } else if *held == 0 {
            self.held.remove(&client);
        }
        is_allowed
    }

    /// Releases a permit of `client`.
    pub(crate) fn release(&mut self, client: IpAddr) {
        self.free += 1;
        if let Some(held) = self.held.get_mut(&client) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&client);
            }
        }
    }

    /// How many requests are served before the next one of `client`.
    pub(crate) fn ahead(&self, client: IpAddr) -> usize {
        let (own, holding) = match self.queues.get(&client) {
            Some(queue) => (queue.waiters.len(), queue.holding),
            None => (0, self.holding_of(client)),
        };
        // One request of the other list after each of its own list.
        let rounds = own + 1;
        let mine = self.rotation.list(holding).len();
        let others = mine.min(self.rotation.list(holding.other()).len());
        self.waiting.min((mine + others).saturating_mul(rounds))
    }

    /// Enqueues a request of `client`. When the queue is full, it displaces the last request of the
    /// client with the most queued requests; `None` when that is `client` itself.
    pub(crate) fn enqueue(&mut self, client: IpAddr, waiter: W) -> Option<u64> {
        if self.waiting >= self.max_waiting {
            let own = self.queues.get(&client).map_or(0, |queue| queue.waiters.len());
            let longest = self.queues.iter().max_by_key(|(_, queue)| queue.waiters.len());
            let (longest, _) = longest.filter(|(_, queue)| queue.waiters.len() > own + 1)?;
            let longest = *longest;
            let last = self.queues.get(&longest)?.waiters.back()?.0;
            self.cancel(longest, last);
        }
        self.tickets += 1;
        let holding = self.holding_of(client);
        let queue = self.queues.entry(client).or_insert_with(|| {
            self.rotation.list_mut(holding).push_back(client);
            Queue { waiters: VecDeque::new(), holding }
        });
        queue.waiters.push_back((self.tickets, waiter));
        self.waiting += 1;
        Some(self.tickets)
    }

    /// Removes the request with this ticket, if it still waits.
    pub(crate) fn cancel(&mut self, client: IpAddr, ticket: u64) {
        let Some(queue) = self.queues.get_mut(&client) else { return };
        let Ok(at) = queue.waiters.binary_search_by_key(&ticket, |(ticket, _)| *ticket) else { return };
        queue.waiters.remove(at);
        self.waiting -= 1;
        if queue.waiters.is_empty() {
            self.rotation.list_mut(queue.holding).retain(|other| *other != client);
            self.queues.remove(&client);
        }
    }

    /// Takes a permit for the next request that may have one.
    pub(crate) fn pop(&mut self) -> Option<(IpAddr, W)> {
        let first = self.last.other();
        self.pop_from(first).or_else(|| self.pop_from(first.other()))
    }

    fn pop_from(&mut self, holding: Holding) -> Option<(IpAddr, W)> {
        for _ in 0..self.rotation.list(holding).len() {
            let client = self.rotation.list_mut(holding).pop_front()?;
            if !self.try_acquire(client) {
                self.rotation.list_mut(holding).push_back(client);
                continue;
            }
            self.last = holding;
            let queue = self.queues.get_mut(&client)?;
            let (_, waiter) = queue.waiters.pop_front()?;
            self.waiting -= 1;
            if queue.waiters.is_empty() {
                self.queues.remove(&client);
            } else {
                queue.holding = Holding::Permits;
                self.rotation.holders.push_back(client);
            }
            return Some((client, waiter));
        }
        None
    }

    /// The list in which `client` waits if it begins now.
    fn holding_of(&self, client: IpAddr) -> Holding {
        if self.held.contains_key(&client) { Holding::Permits } else { Holding::Nothing }
    }
}

impl Holding {
    fn other(self) -> Self {
        match self {
            Self::Permits => Self::Nothing,
            Self::Nothing => Self::Permits,
        }
    }
}

impl Rotation {
    fn list(&self, holding: Holding) -> &VecDeque<IpAddr> {
        match holding {
            Holding::Permits => &self.holders,
            Holding::Nothing => &self.others,
        }
    }

    fn list_mut(&mut self, holding: Holding) -> &mut VecDeque<IpAddr> {
        match holding {
            Holding::Permits => &mut self.holders,
            Holding::Nothing => &mut self.others,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u8) -> IpAddr {
        [10, 0, 0, number].into()
    }

    /// How many permits each of `clients` gets when each takes all that it can, one after another.
    fn taken(limit: usize, percent: u8, clients: u8) -> Vec<usize> {
        let mut queue = FairQueue::<()>::new(limit, percent, 0);
        (0..clients)
            .map(|number| {
                std::iter::repeat_with(|| queue.try_acquire(client(number))).take_while(|is_taken| *is_taken).count()
            })
            .collect()
    }

    #[test]
    fn one_client_never_has_all_permits_unless_there_are_few() {
        assert_eq!(taken(1000, 90, 1), [900]);
        assert_eq!(taken(1000, 90, 3), [900, 90, 9]);
        assert_eq!(taken(1000, 50, 3), [500, 250, 125]);
        assert_eq!(taken(1000, 100, 2), [1000, 0], "no permits are kept for others");
        assert_eq!(taken(9, 90, 2), [9, 0]);
        assert_eq!(taken(1, 1, 2), [1, 0]);
    }

    #[test]
    fn alternating_clients_have_equal_shares() {
        let mut queue = FairQueue::<()>::new(1100, 90, 0);
        let mut held = [0; 10];
        for _ in 0..1000 {
            for number in 0..10 {
                held[usize::from(number)] += usize::from(queue.try_acquire(client(number)));
            }
        }
        assert!(held.iter().all(|held| (105..=110).contains(held)), "{held:?}");
        assert!(queue.free() > 0 && queue.try_acquire(client(10)), "one permit is left for the next client");
    }

    #[test]
    fn permits_go_to_clients_by_rotation() {
        let mut queue = FairQueue::new(1, 90, 100);
        assert!(queue.try_acquire(client(0)) && !queue.try_acquire(client(1)));
        for (number, name) in [(1, "a"), (1, "b"), (1, "c"), (2, "d"), (1, "e")] {
            queue.enqueue(client(number), name).unwrap();
        }
        assert_eq!([1, 2, 3].map(|number| queue.ahead(client(number))), [5, 4, 2]);
        assert_eq!(queue.pop(), None, "no permit is free");
        let mut last = client(0);
        let mut order = Vec::new();
        while queue.waiting() > 0 {
            queue.release(last);
            let (who, name) = queue.pop().unwrap();
            last = who;
            order.push(name);
        }
        assert_eq!(order, ["a", "b", "d", "c", "e"], "clients without a permit, and clients with one, by rotation");
        queue.release(last);
        assert!(
            queue.held.is_empty()
                && queue.queues.is_empty()
                && queue.rotation.holders.is_empty()
                && queue.rotation.others.is_empty()
                && queue.free() == 1
        );
    }

    #[test]
    fn a_client_without_a_permit_does_not_wait_for_many_with_some() {
        let mut queue = FairQueue::new(200, 100, 1000);
        for number in 0..200 {
            assert!(queue.try_acquire(client(number)));
            queue.enqueue(client(number), number).unwrap();
        }
        for new in 200..203 {
            assert_eq!(queue.ahead(client(new)), 2 * usize::from(new - 200));
            queue.enqueue(client(new), new).unwrap();
        }
        let order = (0..8).map(|number| {
            queue.release(client(number));
            queue.pop().unwrap().1
        });
        assert_eq!(order.collect::<Vec<_>>(), [200, 0, 201, 1, 202, 2, 3, 4]);
    }

    #[test]
    fn a_forgotten_or_displaced_request_waits_no_more() {
        let mut queue = FairQueue::new(1, 90, 3);
        assert!(queue.try_acquire(client(0)));
        let first = queue.enqueue(client(1), 'a').unwrap();
        queue.enqueue(client(1), 'b').unwrap();
        queue.enqueue(client(1), 'c').unwrap();
        assert_eq!(queue.enqueue(client(1), 'd'), None, "the client itself has the most queued requests");
        queue.enqueue(client(2), 'e').unwrap();
        assert_eq!(queue.waiting(), 3, "another request of the first client made room");
        queue.cancel(client(1), first);
        queue.cancel(client(1), first);
        queue.release(client(0));
        assert_eq!(queue.pop(), Some((client(1), 'b')));
        queue.release(client(1));
        assert_eq!(queue.pop(), Some((client(2), 'e')));
        assert_eq!(queue.waiting(), 0);
    }
}
