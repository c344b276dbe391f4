//! The queue of a thread: who has a message in it.

use std::cell::RefCell;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio_util::task::AbortOnDropHandle;

use super::socket::SocketState;

/// Maximum number of sockets in a queue: when there are more, all of them are sent at once. Nothing
/// is gained by more of them, and the first would have waited for half a millisecond.
pub(super) const MAX_QUEUED: usize = 64;

/// Sends small messages together while it lives: those that tasks of this runtime write to
/// [`QueuedSocket`](crate::QueuedSocket)s are sent when the other tasks that can run have run. On a
/// runtime of several threads it does nothing. Dropping it sends the queued messages.
#[derive(Debug)]
pub struct SendQueue {
    queue: Arc<Queue>,
    _task: Option<AbortOnDropHandle<()>>,
}

#[derive(Debug, Default)]
struct Queue(Mutex<QueueState>);

#[derive(Debug, Default)]
struct QueueState {
    sockets: Vec<Arc<SocketState>>,
    /// Kept for its capacity.
    spare: Vec<Arc<SocketState>>,
    /// The task that sends; `None` once nothing is queued any more.
    task: Option<Waker>,
}

thread_local! {
    /// The queue of the tasks that run on this thread.
    static CURRENT: RefCell<Option<Arc<Queue>>> = const { RefCell::new(None) };
}

impl SendQueue {
    /// Queues the messages of this runtime's tasks. To be called inside it.
    pub fn start() -> Self {
        let queue = Arc::<Queue>::default();
        let runtime = Handle::current();
        let sends = (runtime.runtime_flavor() == RuntimeFlavor::CurrentThread).then(|| {
            let queue = Arc::clone(&queue);
            AbortOnDropHandle::new(runtime.spawn(poll_fn(move |context| queue.poll_send(context))))
        });
        Self { queue, _task: sends }
    }
}

impl Drop for SendQueue {
    fn drop(&mut self) {
        self.queue.lock().task = None;
        self.queue.send_all();
    }
}

/// Whether this thread's messages are queued.
pub(super) fn is_served() -> bool {
    CURRENT.try_with(|current| current.borrow().is_some()).unwrap_or(false)
}

/// Queues this socket: its message is sent when other tasks have run.
pub(super) fn push(socket: &Arc<SocketState>) {
    let is_queued = CURRENT.try_with(|current| current.borrow().as_ref().map(|queue| queue.push(socket)));
    if !matches!(is_queued, Ok(Some(()))) {
        socket.send_queued();
    }
}

impl Queue {
    fn push(&self, socket: &Arc<SocketState>) {
        let mut state = self.lock();
        let Some(task) = &state.task else {
            drop(state);
            socket.send_queued();
            return;
        };
        // Behind all tasks that can run now, and before the system is asked for events again.
        if state.sockets.is_empty() {
            task.wake_by_ref();
        }
        state.sockets.push(Arc::clone(socket));
        if state.sockets.len() >= MAX_QUEUED {
            drop(state);
            self.send_all();
        }
    }

    /// Sends the queued messages. It never ends.
    fn poll_send(self: &Arc<Self>, context: &mut Context<'_>) -> Poll<()> {
        let is_current =
            CURRENT.with(|current| current.borrow().as_ref().is_some_and(|current| Arc::ptr_eq(current, self)));
        if !is_current {
            CURRENT.set(Some(Arc::clone(self)));
            self.lock().task = Some(context.waker().clone());
        }
        self.send_all();
        Poll::Pending
    }

    fn send_all(&self) {
        let mut state = self.lock();
        let spare = std::mem::take(&mut state.spare);
        let mut sockets = std::mem::replace(&mut state.sockets, spare);
        drop(state);
        for socket in sockets.drain(..) {
            socket.send_queued();
        }
        self.lock().spare = sockets;
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
