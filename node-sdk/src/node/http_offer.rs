//! The offer of an HTTP server that is not of this crate: gateways pass requests on to it.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use net::{Network, info, notify_systemd};
use protocol::{HttpAdvert, foreign_prefix};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::discovery::registration::NodeDescription;
use crate::error::StartError;
use crate::node::NodeBuilder;
use crate::peers::Peers;

/// After a server has left, how long gateways have to learn of it: they are told within
/// milliseconds, and this leaves time to a busy machine.
const HEARD_TIME: Duration = Duration::from_millis(500);
/// How long a server may take to stop after a signal: what a container commonly has, less some for
/// its log.
const MAX_STOP_TIME: Duration = Duration::from_secs(25);

/// The offer of an HTTP server, which is registered until this is dropped: see
/// [`NodeBuilder::offer_http`].
#[derive(Debug)]
#[must_use = "the server is registered until this is dropped"]
pub struct HttpOffer {
    peers: Peers,
    leaving: CancellationToken,
}

impl NodeBuilder {
    /// Registers an HTTP server, such as one of axum or hyper, which listens at `address` of this
    /// process. Gateways pass the requests on whose paths begin with one of the prefixes. Returns
    /// at once. Nodes do not call it; it can call nodes, by [`HttpOffer::peers`].
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use node_sdk::{HttpAdvert, Node};
    /// use tokio::net::TcpListener;
    ///
    /// let listener = TcpListener::bind("127.0.0.1:8081").await?;
    /// let advert = HttpAdvert { prefixes: vec!["/shop".to_owned()], strip: true };
    /// let offer = Node::builder("shop").environment().offer_http(listener.local_addr()?, advert)?;
    /// let stopped = offer.leave_on_signal()?;
    /// // axum::serve(listener, app).with_graceful_shutdown(stopped).await?;
    /// # stopped.await;
    /// # Ok(()) }
    /// ```
    ///
    /// Its name, Distributor, advertised address, weight, zone, version, meta, cache and balance
    /// count. What it listens on, and all that is about handlers, is the server's.
    ///
    /// # Errors
    /// [`StartError`]; [`StartError::Prefix`] when there is no prefix or a wrong one, and
    /// [`StartError::HandlersOfHttp`] when the builder was given a route or a hook.
    pub fn offer_http(mut self, address: SocketAddr, advert: HttpAdvert) -> Result<HttpOffer, StartError> {
        if !self.routes.is_empty() || !self.start_hooks.is_empty() || !self.stop_hooks.is_empty() {
            return Err(StartError::HandlersOfHttp);
        }
        check_prefixes(&advert.prefixes)?;
        if !self.silent {
            net::hint_without_subscriber(super::start::HINT);
        }
        self.check()?;
        info!(%address, name = %self.name, prefixes = ?advert.prefixes, "offering an HTTP server");
        self.advert.http = Some(advert);
        let leaving = CancellationToken::new();
        let description = NodeDescription {
            listen: matches!(self.network, Network::System).then(|| address.ip().to_canonical()),
            ..self.description(address, Vec::new())
        };
        let peers = Peers::register(description, Some(self.distributor), leaving.clone());
        Ok(HttpOffer { peers, leaving })
    }
}

impl HttpOffer {
    /// The nodes, which the server can call.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Leaves the registry. Completes when gateways have been told, after half a second or a little
    /// more: from then on they send no new requests, and the server can finish those that it has.
    /// Dropping the future leaves all the same.
    pub async fn leave(self) {
        self.leaving.cancel();
        self.peers.registration.wait_left().await;
        sleep(HEARD_TIME).await;
        info!("the HTTP server is no longer offered");
    }

    /// Completes when SIGTERM, SIGINT (Ctrl-C) or SIGHUP has come and the server has
    /// [left](Self::leave), so that it can stop: frameworks take this as their graceful shutdown. A
    /// second SIGTERM or SIGINT ends the process at once, with status 130, and one that is still
    /// there 25 s after the first ends with status 1. Dropping the future leaves.
    ///
    /// # Errors
    /// [`StartError::Signals`] when the system refuses the handlers.
    pub fn leave_on_signal(self) -> Result<impl Future<Output = ()> + Send + 'static, StartError> {
        let stop = net::stop_on_signals(|| MAX_STOP_TIME).map_err(StartError::Signals)?;
        notify_systemd("READY=1");
        Ok(async move {
            stop.cancelled().await;
            self.leave().await;
        })
    }
}

impl Drop for HttpOffer {
    fn drop(&mut self) {
        self.leaving.cancel();
    }
}

/// Gateways ignore a wrong prefix, so the server would get no requests.
fn check_prefixes(prefixes: &[String]) -> Result<(), StartError> {
    let wrong = |prefix: &str, reason| Err(StartError::Prefix { prefix: prefix.to_owned(), reason });
    if prefixes.is_empty() {
        return wrong("", "there is no prefix; write at least one, such as /shop, or / for all paths");
    }
    for prefix in prefixes {
        if !prefix.starts_with('/') {
            return wrong(prefix, "a prefix begins with /");
        }
        if let Some(reason) = foreign_prefix(prefix) {
            return wrong(prefix, reason);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m8_a_prefix_that_gateways_would_ignore_is_refused() {
        #[track_caller]
        fn check(prefixes: &[&str], expected: Option<&str>) {
            let prefixes: Vec<String> = prefixes.iter().map(|prefix| (*prefix).to_owned()).collect();
            let seen = check_prefixes(&prefixes).err().map(|error| error.to_string());
            assert_eq!(seen.as_deref(), expected);
        }
        check(&["/shop", "/"], None);
        check(
            &[],
            Some(
                "'' is not a prefix of paths: there is no prefix; write at least one, such as /shop, or / for all paths",
            ),
        );
        check(&["/a", "shop"], Some("'shop' is not a prefix of paths: a prefix begins with /"));
        check(&["/a/*"], Some("'/a/*' is not a prefix of paths: a prefix has all paths below it, and no *"));
    }
}
