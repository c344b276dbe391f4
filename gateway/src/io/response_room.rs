//! Room for the response of a call, before the call is made. While room is short, a call is refused
//! if its response would find none. It would cost the node and the connection as much as any other,
//! and its response would be dropped.

use std::net::IpAddr;
use std::sync::Arc;

use crate::io::budget::{ConnectionBudget, HeldBudget, OverBudget, Reservation};

/// Room for the response of a call that is about to be made.
#[derive(Debug)]
pub(crate) struct ResponseRoom<'a> {
    connection: &'a ConnectionBudget,
    client: IpAddr,
    method: &'a str,
    path: &'a str,
    ahead: ReservedAhead,
}

/// The reservation before the response has arrived.
#[derive(Debug)]
enum ReservedAhead {
    /// Room is not short.
    Nothing,
    /// Room is reserved for as many bytes as the last response to such a call took.
    Size(Reservation),
    /// The call counts, as nothing is known of its response.
    Call { _counts: UnsizedCall },
}

/// A call that counts until this is dropped.
#[derive(Debug)]
struct UnsizedCall {
    budget: Arc<HeldBudget>,
    client: IpAddr,
}

impl<'a> ResponseRoom<'a> {
    /// Room for the response to `client`. While room is short, it is reserved before the call: the
    /// size of the last response to this method and path, if that was large. Otherwise the call is
    /// counted, and a limit of such calls holds.
    ///
    /// # Errors
    /// [`OverBudget`] when the client has as much as it may: the call is not to be made.
    pub(crate) fn new(
        connection: &'a ConnectionBudget,
        client: IpAddr,
        method: &'a str,
        path: &'a str,
    ) -> Result<Self, OverBudget> {
        let mut room = Self { connection, client, method, path, ahead: ReservedAhead::Nothing };
        if connection.shared().is_short() {
            room.reserve_ahead()?;
        }
        Ok(room)
    }

    #[cold]
    fn reserve_ahead(&mut self) -> Result<(), OverBudget> {
        let (budget, client) = (self.connection.shared(), self.client);
        self.ahead = match budget.last_size(self.method, self.path) {
            Some(bytes) => ReservedAhead::Size(self.connection.reserve(client, bytes)?),
            None => {
                budget.try_count_unsized(client)?;
                ReservedAhead::Call { _counts: UnsizedCall { budget: Arc::clone(budget), client } }
            }
        };
        Ok(())
    }

    /// Holds a response that has arrived until its client has read it.
    ///
    /// # Errors
    /// [`OverBudget`] when there is no room for it.
    pub(crate) fn hold(self, bytes: usize) -> Result<Reservation, OverBudget> {
        let Self { connection, client, method, path, ahead } = self;
        let budget = connection.shared();
        let was_large = matches!(ahead, ReservedAhead::Size(_));
        let mut held = match ahead {
            ReservedAhead::Size(held) => held,
            ReservedAhead::Nothing | ReservedAhead::Call { .. } => connection.reserve(client, 0)?,
        };
        let room = held.resize_for_response(bytes);
        if was_large || room.is_err() || held.is_large() && budget.is_short() {
            budget.record_size(method, path, bytes);
        }
        room.map(|()| held)
    }
}

impl Drop for UnsizedCall {
    fn drop(&mut self) {
        self.budget.release_unsized(self.client);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn client(number: u8) -> IpAddr {
        [10, 0, 0, number].into()
    }

    /// A budget of 64 MiB, and responses of a MiB that are held.
    struct RoomScene {
        budget: Arc<HeldBudget>,
        held: Vec<Reservation>,
    }

    impl RoomScene {
        fn new() -> Self {
            Self { budget: Arc::new(HeldBudget::new(64 * MIB)), held: Vec::new() }
        }

        /// Calls, each on a connection of its own, until one is refused: how many were made, and
        /// how many responses are held.
        fn call(&mut self, number: u8, path: &str, bytes: usize, max: usize) -> (usize, usize) {
            let (mut made, mut held) = (0, 0);
            for _ in 0..max {
                let connection = ConnectionBudget::new(&self.budget);
                let Ok(room) = ResponseRoom::new(&connection, client(number), "GET", path) else { continue };
                made += 1;
                if let Ok(response) = room.hold(bytes) {
                    held += 1;
                    self.held.push(response);
                }
            }
            (made, held)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn gh30_calls_whose_responses_would_find_no_room_are_not_made() {
        let mut scene = RoomScene::new();
        assert_eq!(scene.call(1, "/large", MIB, 100), (32, 32), "half of what there is, and none in vain");
        assert_eq!(scene.call(2, "/large", MIB, 100), (16, 16));
        assert_eq!(scene.call(2, "/small", 10, 100), (100, 100), "what is not large is called for");
        assert_eq!(scene.call(3, "/other", MIB, 100).1, 8);
        assert_eq!(scene.call(3, "/other", MIB, 100), (0, 0), "once it is known to be large");
        scene.held.drain(..).for_each(Reservation::complete);
        assert_eq!(scene.call(3, "/other", 10, 100), (100, 100));
        assert_eq!(scene.budget.usage().held, 0);
        assert_eq!(scene.budget.usage().unread, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn gh30_a_client_that_leaves_responses_unread_gets_few() {
        let mut scene = RoomScene::new();
        assert_eq!(scene.call(1, "/large", MIB, 100), (32, 32));
        scene.held.clear();
        assert_eq!(scene.budget.usage().unread, 32);
        assert_eq!(scene.call(1, "/large", MIB, 100).1, 7, "an eighth of what is free");
        assert_eq!(scene.call(2, "/large", MIB, 100).1, 28, "others have what they had");
        let connection = ConnectionBudget::new(&scene.budget);
        let unsized_call = |number| ResponseRoom::new(&connection, client(number), "GET", "/unknown").ok();
        assert_eq!((0..100).filter_map(|_| unsized_call(1)).collect::<Vec<_>>().len(), 4);
        assert_eq!((0..100).filter_map(|_| unsized_call(2)).collect::<Vec<_>>().len(), 100);
        tokio::time::advance(std::time::Duration::from_secs(60)).await;
        scene.held.drain(..).for_each(Reservation::complete);
        assert_eq!(scene.call(1, "/large", MIB, 100).1, 32, "for a minute");
    }
}
