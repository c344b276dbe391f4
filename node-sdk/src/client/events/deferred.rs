//! Events that wait until this node, which has a partial view, has learned who subscribes to them.

use std::collections::{HashMap, VecDeque};
use std::fmt::Display;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::yield_now;
use tokio::time::Instant;

use crate::client::events::OutgoingEvent;
use crate::client::mesh::Mesh;
use crate::error::CallError;
use crate::routing::needs::questions::QuestionAnswer;
use crate::routing::needs::{Needs, PendingAnswer};
use crate::transport::limits::DEFAULT_DEADLINE;

/// Maximum number of events that wait, and of their bytes. They wait for one answer of the
/// Distributor.
const MAX_EVENTS: usize = 1024;
const MAX_BYTES: usize = 16 << 20;
/// Events that are sent before other tasks run.
const SENT_AT_ONCE: usize = 64;

/// The events that wait, by route, in order.
#[derive(Debug, Default)]
pub(crate) struct DeferredEvents {
    queues: Mutex<HashMap<Arc<str>, VecDeque<Arc<OutgoingEvent>>>>,
    /// How many wait, or are just being sent; so that most emissions need no lock.
    count: AtomicUsize,
    bytes: AtomicUsize,
}

/// Whether an event is sent now or waits.
enum SendDecision {
    /// The event is sent at once.
    Now(OutgoingEvent),
    /// The event is sent to the known subscribers, as the Distributor cannot be asked.
    ToKnown(OutgoingEvent, &'static str),
    /// The event waits behind earlier ones.
    Waits,
    /// The event waits for this answer.
    Asks(PendingAnswer),
    /// The event is refused: too many events wait.
    Full,
}

/// Sends an event, now or when it is known who subscribes to it. Returns the number of nodes that
/// it was sent to at once.
pub(super) fn emit(mesh: &Arc<Mesh>, event: OutgoingEvent) -> Result<usize, CallError> {
    if !mesh.view().needs().is_partial() {
        return event.send(mesh);
    }
    if let Some(error) = event.bad_name() {
        return Err(error);
    }
    let route = Arc::clone(&event.route);
    match mesh.deferred_events().decide(mesh.view().needs(), mesh.view().has_list(), event, Instant::now()) {
        SendDecision::Now(event) => event.send(mesh),
        SendDecision::ToKnown(event, reason) => match event.send(mesh)? {
            0 => Err(CallError::NotAsked { url: route.to_string(), reason }),
            reached => Ok(reached),
        },
        SendDecision::Waits => Ok(0),
        SendDecision::Asks(asking) => {
            let sender = RouteSender { mesh: Arc::clone(mesh), route, is_done: false };
            mesh.spawn(sender.send(asking));
            Ok(0)
        }
        SendDecision::Full => Err(CallError::Overloaded { url: route.to_string() }),
    }
}

impl DeferredEvents {
    fn decide(&self, needs: &Needs, has_list: bool, event: OutgoingEvent, now: Instant) -> SendDecision {
        let is_used = needs.use_event(&event.path, now);
        if !has_list || (is_used && self.count.load(Ordering::Acquire) == 0) {
            return SendDecision::Now(event);
        }
        let mut queues = self.lock();
        let waits = queues.contains_key(&event.route);
        let asking = match (waits, is_used) {
            (true, _) => None,
            (false, true) => return SendDecision::Now(event),
            (false, false) => match needs.ask(&event.route, now) {
                Ok(QuestionAnswer::Offered | QuestionAnswer::NotOffered) => return SendDecision::Now(event),
                Ok(QuestionAnswer::Failed(reason)) => return SendDecision::ToKnown(event, reason),
                Err(asking) => Some(asking),
            },
        };
        let bytes = self.bytes.load(Ordering::Relaxed) + event.text.len();
        if self.count.load(Ordering::Relaxed) >= MAX_EVENTS || bytes > MAX_BYTES {
            return SendDecision::Full;
        }
        self.count.fetch_add(1, Ordering::AcqRel);
        self.bytes.fetch_add(event.text.len(), Ordering::Relaxed);
        queues.entry(Arc::clone(&event.route)).or_default().push_back(Arc::new(event));
        asking.map_or(SendDecision::Waits, SendDecision::Asks)
    }

    /// The event that waits for longest. It keeps its place while it is sent.
    fn first(&self, route: &Arc<str>) -> Option<Arc<OutgoingEvent>> {
        self.lock().get(route).and_then(|queue| queue.front().cloned())
    }

    /// Takes out the event that has been sent, and returns the next one. Without one, later events
    /// of the route do not wait any more.
    fn advance(&self, route: &Arc<str>) -> Option<Arc<OutgoingEvent>> {
        let mut queues = self.lock();
        let queue = queues.get_mut(route)?;
        let sent = queue.pop_front()?;
        self.discount(&sent);
        let next = queue.front().cloned();
        if next.is_none() {
            queues.remove(route);
        }
        next
    }

    /// Takes out all events of the route. Returns their number.
    fn clear(&self, route: &Arc<str>) -> usize {
        let events = self.lock().remove(route).unwrap_or_default();
        events.iter().for_each(|event| self.discount(event));
        events.len()
    }

    fn discount(&self, event: &OutgoingEvent) {
        self.count.fetch_sub(1, Ordering::AcqRel);
        self.bytes.fetch_sub(event.text.len(), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, VecDeque<Arc<OutgoingEvent>>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends the events of one route that wait. If its task ends early, because it panics or its
/// runtime is shut down, those that are left are lost, and later ones do not wait for it.
struct RouteSender {
    mesh: Arc<Mesh>,
    route: Arc<str>,
    /// Whether no event is left. Another sender may be at work for the route.
    is_done: bool,
}

impl RouteSender {
    /// Sends the events that wait for this answer, in order, and those that come meanwhile.
    async fn send(mut self, asking: PendingAnswer) {
        let answer = asking.answer(Instant::now() + DEFAULT_DEADLINE).await;
        let events = self.mesh.deferred_events();
        let mut sent = 0_usize;
        let mut next = events.first(&self.route);
        while let Some(event) = next {
            let reached = event.send(&self.mesh);
            if let (Ok(0) | Err(_), QuestionAnswer::Failed(reason)) = (reached, answer) {
                self.record_lost(format_args!("it is not known who subscribes: {reason}"));
            }
            next = events.advance(&self.route);
            sent += 1;
            if sent.is_multiple_of(SENT_AT_ONCE) && next.is_some() {
                yield_now().await;
            }
        }
        self.is_done = true;
    }

    fn record_lost(&self, why: impl Display) {
        self.mesh.local_node().connector.lost.record(&self.route, why);
    }
}

impl Drop for RouteSender {
    fn drop(&mut self) {
        if !self.is_done {
            for _ in 0..self.mesh.deferred_events().clear(&self.route) {
                self.record_lost("the task that sends it when it is known who subscribes has ended early");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use net::Network;

    use super::*;
    use crate::balance::Balance;
    use crate::client::events::Audience;
    use crate::routing::local_node::LocalNode;
    use crate::routing::registry_view::RegistryView;
    use crate::transport::blocked::BlockedAddresses;

    const TOLD: &str = "told";

    fn part() -> Arc<Mesh> {
        let local_node =
            LocalNode::new("i".to_owned(), "n", None, Network::default(), BlockedAddresses::default(), None);
        let mesh = Mesh::new(RegistryView::new(Arc::clone(&local_node), true), local_node, Balance::default(), None);
        mesh.view().needs().record_list(true);
        Arc::new(mesh)
    }

    fn decide(mesh: &Arc<Mesh>) -> SendDecision {
        mesh.deferred_events().decide(
            mesh.view().needs(),
            true,
            OutgoingEvent::new(TOLD, &7, Audience::All).unwrap(),
            Instant::now(),
        )
    }

    /// Lets that many events wait. Returns their sender.
    fn defer(mesh: &Arc<Mesh>, events: usize) -> impl Future<Output = ()> {
        let SendDecision::Asks(asking) = decide(mesh) else { panic!("the first one asks") };
        for _ in 1..events {
            assert!(matches!(decide(mesh), SendDecision::Waits));
        }
        RouteSender {
            mesh: Arc::clone(mesh),
            route: OutgoingEvent::new(TOLD, &7, Audience::All).unwrap().route,
            is_done: false,
        }
        .send(asking)
    }

    /// How many wait, their bytes, and how many are lost.
    fn counts(mesh: &Mesh) -> (usize, usize, u64) {
        let DeferredEvents { queues, count, bytes } = mesh.deferred_events();
        let queued = queues.lock().unwrap().values().map(VecDeque::len).sum::<usize>();
        assert_eq!(queued, count.load(Ordering::Relaxed));
        (queued, bytes.load(Ordering::Relaxed), mesh.local_node().connector.lost.count())
    }

    fn answer(mesh: &Mesh) {
        let needs = mesh.view().needs();
        let (key, _) = needs.next_question(Instant::now()).unwrap();
        needs.answer(key, &[Some(format!("EVENT/{TOLD}"))], Instant::now());
    }

    #[tokio::test(start_paused = true)]
    async fn a_sender_that_ends_early_blocks_no_later_event() {
        let mesh = part();
        let sender = defer(&mesh, 3);
        assert_eq!(counts(&mesh), (3, 3, 0));
        drop(sender);
        assert_eq!(counts(&mesh), (0, 0, 3), "it waited for the answer");
        let mut sender = Box::pin(defer(&mesh, SENT_AT_ONCE + 5));
        answer(&mesh);
        assert!((&mut sender).now_or_never().is_none());
        assert_eq!(counts(&mesh), (5, 5, 3), "the others are sent");
        drop(sender);
        assert_eq!(counts(&mesh), (0, 0, 8));
        assert!(matches!(decide(&mesh), SendDecision::Now(_)), "it is known who subscribes");
    }

    #[tokio::test(start_paused = true)]
    async fn a_sender_that_is_done_leaves_the_events_of_the_next_one() {
        let mesh = part();
        let sender = defer(&mesh, 2);
        answer(&mesh);
        sender.await;
        assert_eq!(counts(&mesh), (0, 0, 0));
        assert!(matches!(decide(&mesh), SendDecision::Now(_)));
    }
}
