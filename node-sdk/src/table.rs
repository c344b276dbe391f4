//! What calls are routed by: who offers what.

use std::net::SocketAddr;
use std::sync::Arc;

use protocol::{Node, Route};
use tokio::time::Instant;

use crate::balance::{Member, Pool, Readiness};
use crate::events::Groups;
use crate::link::Link;
use crate::load::Load;
use crate::router::Router;

/// Who offers what; replaced as a whole at every change.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) router: Router<Providers>,
    /// Routes that had providers once. Asked when `router` knows none: a route that is gone must not hide one that is there.
    pub(crate) remembered: Arc<Router<Providers>>,
    /// Who has subscribed to what.
    pub(crate) events: Router<Groups>,
    pub(crate) nodes: Vec<Node>,
}

/// The nodes that offer one route and want calls.
pub(crate) type Providers = Pool<Provider>;

#[derive(Debug)]
pub(crate) struct Provider {
    pub(crate) link: Arc<Link>,
    pub(crate) route: Route,
    pub(crate) weight: u16,
    /// The Distributor has had no sign of life from it for a moment.
    pub(crate) suspect: bool,
    /// It runs where we do.
    pub(crate) is_near: bool,
}

impl Member for Provider {
    fn address(&self) -> SocketAddr {
        self.link.address
    }

    fn load(&self) -> &Load {
        &self.link.load
    }

    fn readiness(&self, now: Instant) -> Readiness {
        let readiness = self.link.readiness(now);
        if self.suspect { readiness.max(Readiness::Ejected) } else { readiness }
    }

    fn weight(&self) -> u16 {
        self.weight
    }

    fn is_near(&self) -> bool {
        self.is_near
    }

    fn instance(&self) -> Option<&str> {
        self.link.instance.as_deref()
    }

    fn closeness(&self) -> u64 {
        self.link.closeness
    }
}
