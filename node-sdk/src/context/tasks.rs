//! The tasks of a node that outlast calls, which it waits for when it stops.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

/// The tasks of one node. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeTasks {
    tracker: TaskTracker,
}

thread_local! {
    /// The tasks of the node whose work this thread is doing.
    static CURRENT: Cell<Option<NodeTasks>> = const { Cell::new(None) };
}

impl NodeTasks {
    /// The tasks of the node whose handler is running; `None` outside of handlers.
    pub(crate) fn current() -> Option<Self> {
        let copy = |current: &Cell<Option<Self>>| {
            let tasks = current.take();
            current.set(tasks.clone());
            tasks
        };
        CURRENT.try_with(copy).ok().flatten()
    }

    /// Spawns a task that the node waits for.
    pub(crate) fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.tracker.spawn(self.scope(future))
    }

    /// Spawns a task in this runtime that the node waits for. The future is dropped at once if the
    /// runtime is shut down.
    pub(crate) fn spawn_on<F>(&self, future: F, runtime: &Handle)
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.tracker.spawn_on(self.scope(future), runtime);
    }

    /// Runs work of this node: the tasks that it spawns belong to the node.
    pub(crate) fn scope<F>(&self, future: F) -> ScopedFuture<F> {
        ScopedFuture { tasks: Some(self.clone()), future: Some(future) }
    }

    pub(crate) fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Completes when no task is left, once the node stops. More may come after that.
    pub(crate) async fn ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

pin_project! {
    /// See [`NodeTasks::scope`]. The future is dropped in the scope, too.
    #[derive(Debug)]
    pub(crate) struct ScopedFuture<F> {
        // Lent to the thread while the future is polled, so that no counter is touched.
        tasks: Option<NodeTasks>,
        // `None` only while it is dropped.
        #[pin]
        future: Option<F>,
    }

    impl<F> PinnedDrop for ScopedFuture<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            lend(this.tasks, || this.future.set(None));
        }
    }
}

impl<F: Future> Future for ScopedFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let Some(future) = this.future.as_pin_mut() else { return Poll::Pending };
        lend(this.tasks, || future.poll(context))
    }
}

/// Lends the tasks to this thread while `act` runs.
fn lend<T>(tasks: &mut Option<NodeTasks>, act: impl FnOnce() -> T) -> T {
    /// Takes the tasks back, even when `act` panics.
    struct ReturnOnDrop<'a> {
        before: Option<NodeTasks>,
        lent: &'a mut Option<NodeTasks>,
    }
    impl Drop for ReturnOnDrop<'_> {
        fn drop(&mut self) {
            *self.lent = CURRENT.replace(self.before.take());
        }
    }
    // A thread that ends may drop futures when it has no such place any more.
    let Ok(before) = CURRENT.try_with(|current| current.replace(tasks.take())) else { return act() };
    let _restore = ReturnOnDrop { before, lent: tasks };
    act()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_belongs_to_the_node_whose_work_spawns_it() {
        let tasks = NodeTasks::default();
        assert!(NodeTasks::current().is_none());
        let (release, released) = tokio::sync::oneshot::channel::<()>();
        let mut spawned = None;
        let work = tasks.scope(async {
            tokio::task::yield_now().await;
            spawned = Some(NodeTasks::current().unwrap().spawn(async {
                let inner = NodeTasks::current().is_some();
                (released.await.is_ok(), inner)
            }));
        });
        work.await;
        let spawned = spawned.unwrap();
        assert!(NodeTasks::current().is_none() && tasks.len() == 1);
        release.send(()).unwrap();
        assert_eq!(spawned.await.unwrap(), (true, true));
        tasks.ended().await;
        assert_eq!(tasks.len(), 0);
    }
}
