//! Events that wait until this node, which is told of a part of the mesh, has learned who
//! subscribes to them.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::task::yield_now;
use tokio::time::Instant;

use crate::client::events::Event;
use crate::client::mesh::Mesh;
use crate::error::CallError;
use crate::routing::needs::{Asking, Needs};
use crate::routing::questions::Answer;
use crate::transport::limits::DEFAULT_DEADLINE;

/// Most events that wait, and their bytes. They wait for one answer of the Distributor.
const MAX_EVENTS: usize = 1024;
const MAX_BYTES: usize = 16 << 20;
/// Events that are sent before other tasks run.
const SENT_AT_ONCE: usize = 64;

/// The events that wait, by route, in order.
#[derive(Debug, Default)]
pub(crate) struct DeferredEvents {
    queues: Mutex<HashMap<Arc<str>, VecDeque<Event>>>,
    /// How many wait, or are just being sent; so that most emissions need no lock.
    count: AtomicUsize,
    bytes: AtomicUsize,
}

/// Whether an event is sent now or waits.
enum Placement {
    /// It is sent at once.
    Now(Event),
    /// It is sent to those who are known, as the Distributor cannot be asked.
    ToKnown(Event, &'static str),
    /// It waits, with those before it.
    Waits,
    /// It waits, and this has to be waited for.
    Asks(Asking),
    /// Too many wait.
    Full,
}

/// Sends an event, now or when it is known who subscribes to it. Returns the number of nodes that
/// it was sent to at once.
pub(super) fn emit(mesh: &Arc<Mesh>, event: Event) -> Result<usize, CallError> {
    if !mesh.view().needs().is_part() {
        return event.send(mesh);
    }
    let route = Arc::clone(&event.route);
    // Whatever waits needs a task.
    let Ok(runtime) = Handle::try_current() else { return event.send(mesh) };
    match mesh.deferred_events().place(mesh.view().needs(), mesh.view().has_list(), event, Instant::now()) {
        Placement::Now(event) => event.send(mesh),
        Placement::ToKnown(event, reason) => match event.send(mesh)? {
            0 => Err(CallError::NotAsked { url: route.to_string(), reason }),
            reached => Ok(reached),
        },
        Placement::Waits => Ok(0),
        Placement::Asks(asking) => {
            let mesh = Arc::clone(mesh);
            runtime.spawn(async move {
                let answer = asking.answer(Instant::now() + DEFAULT_DEADLINE).await;
                mesh.deferred_events().send(&mesh, &route, answer).await;
            });
            Ok(0)
        }
        Placement::Full => Err(CallError::Overloaded { url: route.to_string() }),
    }
}

impl DeferredEvents {
    fn place(&self, needs: &Needs, has_list: bool, event: Event, now: Instant) -> Placement {
        let is_used = needs.use_event(&event.path, now);
        if !has_list || (is_used && self.count.load(Ordering::Acquire) == 0) {
            return Placement::Now(event);
        }
        let mut queues = self.lock();
        let waits = queues.contains_key(&event.route);
        let asking = match (waits, is_used) {
            (true, _) => None,
            (false, true) => return Placement::Now(event),
            (false, false) => match needs.ask(&event.route, now) {
                Ok(Answer::Offered | Answer::Nobody) => return Placement::Now(event),
                Ok(Answer::Failed(reason)) => return Placement::ToKnown(event, reason),
                Err(asking) => Some(asking),
            },
        };
        let bytes = self.bytes.load(Ordering::Relaxed) + event.text.len();
        if self.count.load(Ordering::Relaxed) >= MAX_EVENTS || bytes > MAX_BYTES {
            return Placement::Full;
        }
        self.count.fetch_add(1, Ordering::AcqRel);
        self.bytes.fetch_add(event.text.len(), Ordering::Relaxed);
        queues.entry(Arc::clone(&event.route)).or_default().push_back(event);
        asking.map_or(Placement::Waits, Placement::Asks)
    }

    /// Sends the events that wait for this answer, in order, and those that come meanwhile.
    async fn send(&self, mesh: &Mesh, route: &Arc<str>, answer: Answer) {
        let mut sent = 0_usize;
        while let Some(event) = self.take(route) {
            sent += 1;
            if sent.is_multiple_of(SENT_AT_ONCE) {
                yield_now().await;
            }
            let reached = event.send(mesh);
            if let (Ok(0) | Err(_), Answer::Failed(reason)) = (reached, answer) {
                mesh.local_node()
                    .connector
                    .lost
                    .record(route, format_args!("it is not known who subscribes: {reason}"));
            }
            self.count.fetch_sub(1, Ordering::AcqRel);
            self.bytes.fetch_sub(event.text.len(), Ordering::Relaxed);
        }
    }

    fn take(&self, route: &Arc<str>) -> Option<Event> {
        let mut queues = self.lock();
        let event = queues.get_mut(route)?.pop_front();
        if event.is_none() {
            queues.remove(route);
        }
        event
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, VecDeque<Event>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
