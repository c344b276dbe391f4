//! The service `orders`: members order goods, and their pages are told how far the orders are.
//!
//! It must not know how the other services do their part: it calls them by url.

mod log;
mod saga;

use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use node_sdk::{
    Accepted, Awaited, Created, Headers, Html, NodeBuilder, Outcome, Params, Peers, ServiceError, State, Stop,
    Streaming, detach,
};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, broadcast};
use tokio::time::timeout;

use crate::orders::log::OrderLog;
use crate::orders::saga::{Saga, State as OrderState};
use crate::user::User;

/// The event by which all nodes of this service learn how far an order is.
const ORDER_CHANGED: &str = "orders.changed";
/// The event by which this service learns that the money of an order has come.
pub(crate) const PAYMENT_SETTLED: &str = "payments.settled";

/// How long a member waits for the end of an order. After that the page is told.
const ANSWER_TIME: Duration = Duration::from_secs(3);
/// Changes that wait for a page that does not read. One that misses some connects again.
const MAX_BEHIND: usize = 256;
/// How many orders are carried out at a time: so many calls do not burden the other services.
const MAX_RUNNING: usize = 100;
/// Maximum bytes of an `Idempotency-Key`.
const MAX_KEY_BYTES: usize = 100;

/// What a member orders.
#[derive(Deserialize)]
pub(crate) struct NewOrder {
    good: i64,
    count: u32,
    card: String,
    address: String,
}

/// An order, and how far it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) id: String,
    pub(crate) member: String,
    pub(crate) good: i64,
    pub(crate) count: u32,
    /// The bank's token for the card; nobody is shown it.
    #[serde(skip)]
    pub(crate) card: String,
    pub(crate) address: String,
    pub(crate) total: i64,
    pub(crate) state: OrderState,
    /// Why it was undone.
    pub(crate) reason: Option<String>,
    /// Whether the bank says that the money has come.
    pub(crate) is_settled: bool,
}

/// What `goods` is asked for.
#[derive(Serialize, Deserialize)]
pub(crate) struct Reserve {
    pub(crate) good: i64,
    pub(crate) count: u32,
}

/// What `payments` is asked for.
#[derive(Serialize, Deserialize)]
pub(crate) struct Pay {
    pub(crate) amount: i64,
    pub(crate) card: String,
}

/// What `shipping` is asked for.
#[derive(Serialize, Deserialize)]
pub(crate) struct Ship {
    pub(crate) address: String,
}

/// Tells the pages that this node serves what has changed.
type Changes = broadcast::Sender<Order>;

pub(crate) fn add_routes(node: NodeBuilder) -> Result<NodeBuilder, String> {
    let log = OrderLog::open()?;
    let unfinished = log.clone();
    Ok(node
        .state(log)
        .state(Semaphore::new(MAX_RUNNING))
        .state(Changes::new(MAX_BEHIND))
        .on_start(move |peers, stop| resume(unfinished, peers, stop))
        .subscribe(ORDER_CHANGED, tell)
        .subscribe(PAYMENT_SETTLED, settle)
        .public_routes()
        .route("GET/store", page)
        .route("POST/orders", order)
        .headers(["idempotency-key"])
        .route("GET/orders", list)
        .route("GET/orders/changes", watch))
}

/// Takes up the orders that were not finished when the service ended, however it ended.
async fn resume(log: OrderLog, peers: Peers, stop: Stop) -> Result<(), ServiceError> {
    let unfinished = log.unfinished().await?;
    tracing::info!(orders = unfinished.len(), "unfinished orders are taken up");
    let saga = Saga { log, peers, stop };
    detach(stream::iter(unfinished).for_each_concurrent(MAX_RUNNING, move |id| {
        let saga = saga.clone();
        async move { drop(saga.run(id).await) }
    }));
    Ok(())
}

/// Writes an order down, and carries it out. The work is detached: neither a member who goes nor
/// the end of this call's time ends it, and the node waits for it when it stops. The same
/// `Idempotency-Key` is the same order, so a page that got no answer sends it again.
async fn order(
    Awaited(user): Awaited<User>,
    headers: Headers,
    Params(new): Params<NewOrder>,
    State(log): State<OrderLog>,
    State(turns): State<Semaphore>,
    peers: Peers,
    stop: Stop,
) -> Result<Outcome, ServiceError> {
    let key = headers.get("idempotency-key").filter(|key| !key.is_empty() && key.len() <= MAX_KEY_BYTES);
    let key = key.ok_or_else(|| ServiceError::bad_request("no_key", "send an Idempotency-Key, 100 bytes at most"))?;
    if new.count == 0 {
        return Err(ServiceError::bad_request("nothing", "count must be 1 or more"));
    }
    let busy = || ServiceError::new(503, "busy", "too many orders are on their way").retry_after(ANSWER_TIME);
    let turn = turns.try_acquire_owned().map_err(|_| busy())?;
    let saga = Saga { log: (*log).clone(), peers, stop };
    let mut order = log.add(user.name, key.to_owned(), new).await?;
    if !order.state.is_end() {
        let id = order.id.clone();
        let work = detach(async move {
            let _turn = turn;
            saga.run(id).await
        });
        match timeout(ANSWER_TIME, work).await {
            Ok(Ok(Some(ended))) => order = ended,
            // It goes on, or is taken up at the next start.
            Ok(Ok(None) | Err(_)) | Err(_) => {
                let order = log.find(&order.id).await?.unwrap_or(order);
                return Outcome::from_result(Accepted(order));
            }
        }
    }
    match order.state {
        OrderState::Cancelled => {
            let reason = order.reason.unwrap_or_default();
            Err(ServiceError::conflict("cancelled", format!("the order was cancelled: {reason}")))
        }
        _ => Outcome::from_result(Created(order)),
    }
}

/// The newest orders of the member.
async fn list(Awaited(user): Awaited<User>, log: State<OrderLog>) -> Result<Vec<Order>, ServiceError> {
    log.of_member(user.name).await
}

/// A WebSocket, or server-sent events: how far the orders of the member are, as it changes.
async fn watch(
    Awaited(user): Awaited<User>,
    changes: State<Changes>,
) -> Result<Streaming<impl Stream<Item = Result<Order, ServiceError>>>, ServiceError> {
    let changes = stream::unfold(changes.subscribe(), |mut changes| async move {
        match changes.recv().await {
            Ok(order) => Some((Ok(order), changes)),
            Err(RecvError::Lagged(_)) => {
                Some((Err(ServiceError::new(429, "behind", "changes were missed; connect again")), changes))
            }
            Err(RecvError::Closed) => None,
        }
    });
    Ok(Streaming(changes.filter(move |change| {
        let is_meant = change.as_ref().map_or(true, |order| order.member == user.name);
        std::future::ready(is_meant)
    })))
}

/// Tells the pages at this node of a change that a node of this service has made.
async fn tell(Params(order): Params<Order>, changes: State<Changes>) -> Result<(), ServiceError> {
    // Without pages there is nobody to tell.
    let _ = changes.send(order);
    Ok(())
}

/// The money of an order has come.
async fn settle(Params(id): Params<String>, log: State<OrderLog>, peers: Peers) -> Result<(), ServiceError> {
    if let Some(order) = log.settle(id).await? {
        peers.broadcast(ORDER_CHANGED, &order)?;
    }
    Ok(())
}

/// The page of the store.
async fn page() -> Result<Html<&'static str>, ServiceError> {
    Ok(Html(include_str!("page.html")))
}
