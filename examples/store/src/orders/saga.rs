//! How an order is carried out: reserve, pay, ship; and undone if one of them is refused.
//!
//! Three services have to agree, and each of them, and this one, may be killed at any moment. So
//!
//! - the state of an order is written down after each step, and taken up again at the next start;
//! - each step can be done twice, because its url has the id of the order;
//! - a step that was not answered is done again;
//! - a step that is refused, or is not answered for long, is undone as if it had been done: an
//!   earlier attempt may have been;
//! - a step that was undone is refused from then on, so that a call that comes late does no harm.

use std::time::Duration;

use node_sdk::{CallError, Peers, Stop};
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use tracing::info;

use crate::orders::log::OrderLog;
use crate::orders::{ORDER_CHANGED, Order, Pay, Reserve, Ship};

/// How long an order may be without progress before it is undone.
const GIVE_UP_TIME: Duration = Duration::from_secs(60);
/// The pause before the second attempt at a step; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// How far an order is. Each state is written down before the next step is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// It is written down, and nothing else is done.
    Begun,
    /// The goods are reserved.
    Reserved,
    /// It is paid.
    Paid,
    /// It is on its way: the good end.
    Shipped,
    /// It may have been shipped, and has to be called back.
    Recalling,
    /// It may have been paid, and has to be refunded.
    Refunding,
    /// Goods may be reserved, and have to be released.
    Releasing,
    /// Nothing of it is left: the other end.
    Cancelled,
}

impl State {
    const ALL: [(Self, &str); 8] = [
        (Self::Begun, "begun"),
        (Self::Reserved, "reserved"),
        (Self::Paid, "paid"),
        (Self::Shipped, "shipped"),
        (Self::Recalling, "recalling"),
        (Self::Refunding, "refunding"),
        (Self::Releasing, "releasing"),
        (Self::Cancelled, "cancelled"),
    ];

    pub(crate) fn is_end(self) -> bool {
        matches!(self, Self::Shipped | Self::Cancelled)
    }

    /// What undoes the step that follows, and all before it. What undoes is not undone.
    fn undone(self) -> Self {
        match self {
            Self::Begun => Self::Releasing,
            Self::Reserved => Self::Refunding,
            Self::Paid => Self::Recalling,
            Self::Shipped | Self::Recalling | Self::Refunding | Self::Releasing | Self::Cancelled => self,
        }
    }
}

/// Carries orders out. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Saga {
    pub(crate) log: OrderLog,
    pub(crate) peers: Peers,
    pub(crate) stop: Stop,
}

impl Saga {
    /// Carries an order out, to one end or the other. `None` if this service stops or fails before:
    /// the order is taken up at its next start.
    pub(crate) async fn run(self, id: String) -> Option<Order> {
        let mut order = self.log.find(&id).await.ok()??;
        let (mut progress, mut pause) = (Instant::now(), FIRST_PAUSE);
        while !order.state.is_end() {
            let from = order.state;
            match self.step(&mut order).await {
                Ok(next) => order.state = next,
                Err(error) if from.undone() != from && is_final(&error, progress.elapsed()) => {
                    info!(order = id, state = ?from, %error, "an order is undone");
                    order.reason = Some(reason_of(&error));
                    order.state = from.undone();
                }
                Err(error) => {
                    info!(order = id, state = ?from, %error, "a step of an order is tried again");
                    self.stop.interrupt(sleep(pause)).await?;
                    pause = MAX_PAUSE.min(pause * 2);
                    continue;
                }
            }
            if self.log.save(&order, from).await.ok()? {
                // The pages of the member are told. They ask again when they connect, so that a
                // loss does no harm.
                let _ = self.peers.broadcast(ORDER_CHANGED, &order);
            } else {
                // The same order runs twice, because the member has sent it twice.
                order = self.log.find(&id).await.ok()??;
            }
            (progress, pause) = (Instant::now(), FIRST_PAUSE);
        }
        Some(order)
    }

    /// Does what follows the state of an order, and returns the state after that.
    async fn step(&self, order: &mut Order) -> Result<State, CallError> {
        let (peers, id) = (&self.peers, &order.id);
        match order.state {
            State::Begun => {
                let wanted = Reserve { good: order.good, count: order.count };
                order.total = peers.call(&format!("PUT/reservations/{id}"), &wanted).await?;
                Ok(State::Reserved)
            }
            State::Reserved => {
                let wanted = Pay { amount: order.total, card: order.card.clone() };
                peers.call::<()>(&format!("PUT/payments/{id}"), &wanted).await?;
                Ok(State::Paid)
            }
            State::Paid => {
                let wanted = Ship { address: order.address.clone() };
                peers.call::<()>(&format!("PUT/shipments/{id}"), &wanted).await?;
                Ok(State::Shipped)
            }
            State::Recalling => {
                peers.call::<()>(&format!("DELETE/shipments/{id}"), &()).await?;
                Ok(State::Refunding)
            }
            State::Refunding => {
                peers.call::<()>(&format!("DELETE/payments/{id}"), &()).await?;
                Ok(State::Releasing)
            }
            State::Releasing => {
                peers.call::<()>(&format!("DELETE/reservations/{id}"), &()).await?;
                Ok(State::Cancelled)
            }
            State::Shipped | State::Cancelled => Ok(order.state),
        }
    }
}

/// Whether the service has said no, or has not been reached for long. Any other failure may be none
/// the next time.
fn is_final(error: &CallError, waited: Duration) -> bool {
    let is_refusal = error.status().is_some_and(|status| (400..500).contains(&status) && status != 429);
    is_refusal || waited > GIVE_UP_TIME
}

/// The word for programs of a refusal.
fn reason_of(error: &CallError) -> String {
    match error {
        CallError::Refused { reason, .. } => reason.clone(),
        _ => "unavailable".to_owned(),
    }
}

impl ToSql for State {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let (_, word) = Self::ALL.iter().find(|(state, _)| state == self).expect("all states have a word");
        Ok(ToSqlOutput::from(*word))
    }
}

impl FromSql for State {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let word = value.as_str()?;
        let known = Self::ALL.iter().find(|(_, known)| *known == word);
        known.map(|(state, _)| *state).ok_or(FromSqlError::InvalidType)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_been_done_is_undone() {
        for (state, undone) in
            [(State::Begun, State::Releasing), (State::Reserved, State::Refunding), (State::Paid, State::Recalling)]
        {
            assert_eq!(state.undone(), undone, "{state:?}");
        }
        // What undoes is tried until it is done.
        for (state, _) in &State::ALL[3..] {
            assert_eq!(state.undone(), *state);
        }
    }

    #[test]
    fn an_order_is_undone_when_it_is_refused_or_too_late() {
        let refused = |status| CallError::Refused {
            status,
            reason: "word".to_owned(),
            message: "text".to_owned(),
            retry_after: None,
        };
        for (status, is_over) in [(402, true), (404, true), (429, false), (500, false), (503, false)] {
            assert_eq!(is_final(&refused(status), Duration::ZERO), is_over, "{status}");
            assert!(is_final(&refused(status), GIVE_UP_TIME * 2), "{status}");
        }
    }
}
