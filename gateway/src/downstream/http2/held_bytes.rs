//! The memory that a connection's requests and its table of header fields take from the budget of
//! all clients.

use super::metered_stream::ConnectionActivity;
use super::{FIELD_COPIES, FREE_FIELD_BYTES, FREE_STREAMS, FREE_TABLE_BYTES, STREAM_BYTES};
use crate::io::budget::Reservation;
use crate::proxy::exchange::RequestHandler;

/// The bytes that one connection holds.
pub(super) struct HeldBytes<'a, H> {
    handler: &'a H,
    activity: &'a ConnectionActivity,
    /// The reservation of what is charged; `None` while nothing is.
    reservation: Option<Reservation>,
    /// The charged bytes of requests.
    requests: usize,
}

impl<'a, H: RequestHandler> HeldBytes<'a, H> {
    pub(super) fn new(handler: &'a H, activity: &'a ConnectionActivity) -> Self {
        Self { handler, activity, reservation: None, requests: 0 }
    }

    /// Charges a request. Returns whether there is room for it.
    pub(super) fn try_charge(&mut self, cost: usize) -> bool {
        let has_room = cost == 0 || self.try_hold(self.requests + cost + self.table_cost());
        self.requests += if has_room { cost } else { 0 };
        has_room
    }

    /// Releases the charge of an answered request.
    pub(super) fn release(&mut self, cost: usize) {
        self.requests -= cost;
    }

    /// Releases the reservation: no request is open.
    pub(super) fn clear(&mut self) {
        self.reservation = None;
    }

    /// Whether the table of header fields has outgrown the room for it.
    pub(super) fn is_table_too_large(&mut self) -> bool {
        let table = self.table_cost();
        table > FREE_TABLE_BYTES && !self.try_hold(self.requests + table)
    }

    fn try_hold(&mut self, bytes: usize) -> bool {
        if self.reservation.is_none() {
            self.reservation = self.handler.reservation();
        }
        self.reservation.as_mut().is_none_or(|held| held.grow_shared_to(bytes).is_ok())
    }

    /// The counted bytes of the client's table of header fields.
    fn table_cost(&self) -> usize {
        self.activity.table_bytes().saturating_sub(FREE_TABLE_BYTES)
    }
}

/// The charge of a request while `open` others are not answered yet.
pub(super) fn cost_of<B>(request: &http::Request<B>, open: usize) -> usize {
    let bytes: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    let fields = FIELD_COPIES * bytes;
    if open < FREE_STREAMS { fields.saturating_sub(FREE_FIELD_BYTES) } else { STREAM_BYTES + fields }
}
