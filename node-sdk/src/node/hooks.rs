//! What an author has done when a node starts and stops.

use std::any::type_name_of_val;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tokio::time::{Instant, timeout_at};

use crate::context::Stop;
use crate::error::StartError;
use crate::node::NodeBuilder;
use crate::peers::Peers;

/// How long each hook of the start may take: enough to fill a cache from other services, and short
/// enough that a deploy which hangs is noticed.
const START_HOOK_TIME: Duration = Duration::from_secs(30);
/// How long all hooks of the stop may take together. A process that is told to stop has commonly 30
/// s, of which the node takes 12 s before.
pub(super) const STOP_HOOKS_TIME: Duration = Duration::from_secs(5);

/// Why a hook, or other work of the author, has failed.
type WorkError = Box<dyn Error + Send + Sync>;
type HookFuture = Pin<Box<dyn Future<Output = Result<(), WorkError>> + Send>>;
type HookFunction = Box<dyn FnOnce(Peers, Stop) -> HookFuture + Send>;

/// A function that runs once.
pub(super) struct Hook {
    /// The path of the function, for people.
    name: &'static str,
    /// Behind a lock that is never locked, because a function need not be `Sync` and a node is.
    function: Mutex<HookFunction>,
}

impl NodeBuilder {
    /// Runs `hook` when the node starts: after it listens and is registered, and before
    /// [`start`](Self::start) returns. Callers may call the node already. If no Distributor answers
    /// within 3 s, the hook runs without. Several hooks run one after the other, in the order in
    /// which they were given. Tasks that a hook [detaches](crate::detach) belong to the node, which
    /// waits for them when it stops.
    ///
    /// A hook that fails, panics or takes more than 30 s ends the start with
    /// [`StartError::Hook`]: the node leaves, and hooks of the stop do not run. A signal that comes
    /// before the hook is done drops it.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), node_sdk::StartError> {
    /// use node_sdk::{CallError, Node, Peers, Stop, detach};
    ///
    /// async fn fetch_prices(peers: Peers, stop: Stop) -> Result<(), CallError> {
    ///     let prices: Vec<u64> = peers.call("GET/prices", &()).await?;
    ///     println!("{} prices are known", prices.len());
    ///     detach(async move { stop.requested().await });
    ///     Ok(())
    /// }
    ///
    /// Node::builder("shop").on_start(fetch_prices).serve().await
    /// # }
    /// ```
    pub fn on_start<F, Fut, E>(mut self, hook: F) -> Self
    where
        F: FnOnce(Peers, Stop) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<WorkError> + 'static,
    {
        self.start_hooks.push(Hook::new(hook));
        self
    }

    /// Runs `hook` when the node stops: after it has left the registry, and after its calls and its
    /// tasks have ended or their time is over. It can still call other nodes. Work that has to be
    /// done before that waits for a [`Stop`]. Several hooks run one after the other, in the order
    /// in which they were given, and have 5 s together.
    ///
    /// A hook that fails, panics or comes too late is an error in the log, and the next one runs.
    /// [`serve`](Self::serve) then returns [`StartError::Hook`]. A node that is dropped and not
    /// [stopped](crate::Node::stop) runs none.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), node_sdk::StartError> {
    /// use std::io;
    ///
    /// use node_sdk::{Node, Peers, Stop};
    ///
    /// async fn close_files(_peers: Peers, _stop: Stop) -> Result<(), io::Error> {
    ///     Ok(())
    /// }
    ///
    /// Node::builder("shop").on_stop(close_files).serve().await
    /// # }
    /// ```
    pub fn on_stop<F, Fut, E>(mut self, hook: F) -> Self
    where
        F: FnOnce(Peers, Stop) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<WorkError> + 'static,
    {
        self.stop_hooks.push(Hook::new(hook));
        self
    }
}

impl Hook {
    fn new<F, Fut, E>(hook: F) -> Self
    where
        F: FnOnce(Peers, Stop) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<WorkError> + 'static,
    {
        let name = type_name_of_val(&hook);
        let function = move |peers, stop| -> HookFuture { Box::pin(outcome(async move { hook(peers, stop).await })) };
        Self { name, function: Mutex::new(Box::new(function)) }
    }

    /// Runs it until `end`, which is `limit` after the beginning of all hooks that share the time.
    async fn run(
        self,
        kind: &'static str,
        peers: &Peers,
        stop: &Stop,
        (end, limit): (Instant, Duration),
    ) -> Result<(), StartError> {
        let Self { name, function } = self;
        let function = function.into_inner().unwrap_or_else(PoisonError::into_inner);
        let tasks = peers.mesh.tasks();
        let (peers, stop) = (peers.clone(), stop.clone());
        let done = timeout_at(end, tasks.scope(async move { function(peers, stop).await })).await;
        let late = |_| Err(format!("it did not end within {} s", limit.as_secs()).into());
        done.unwrap_or_else(late).map_err(|source| StartError::Hook { kind, name, source })
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// The result of work of an author. A panic is an error.
pub(super) async fn outcome<E: Into<WorkError>>(work: impl Future<Output = Result<(), E>>) -> Result<(), WorkError> {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(done) => done.map_err(Into::into),
        // The panic hook has said where.
        Err(_panic) => Err("it panicked".into()),
    }
}

/// Runs the hooks of the start, up to the first that fails.
pub(super) async fn run_start_hooks(hooks: Vec<Hook>, peers: &Peers, stop: &Stop) -> Result<(), StartError> {
    for hook in hooks {
        hook.run("start", peers, stop, (Instant::now() + START_HOOK_TIME, START_HOOK_TIME)).await?;
    }
    Ok(())
}

/// Runs the hooks of the stop, and returns the failures.
pub(super) async fn run_stop_hooks(hooks: Vec<Hook>, peers: &Peers, stop: &Stop) -> Vec<StartError> {
    let end = Instant::now() + STOP_HOOKS_TIME;
    let mut failed = Vec::new();
    for hook in hooks {
        failed.extend(hook.run("stop", peers, stop, (end, STOP_HOOKS_TIME)).await.err());
    }
    failed
}
