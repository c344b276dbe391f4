//! The urls that a node uses, of which it is told. Without I/O.

use std::sync::atomic::{AtomicU64, Ordering};

use protocol::{Route, Router};
use tokio::time::Instant;

/// Maximum number of urls that a node uses at a time: as many as a Distributor takes unless its
/// `--max-urls` says otherwise.
pub(crate) const MAX_USED: usize = 256;

/// An eighth (1 / this) of the urls is dropped when there are too many. Each time, the node
/// registers again.
const DROPPED: usize = 8;

/// The urls that a node uses, as registered, and when each was used last. Names of parameters make
/// no difference.
#[derive(Debug)]
pub(crate) struct UsedUrls {
    /// The last use of each, in milliseconds after `began`.
    last_use: Router<AtomicU64>,
    urls: Vec<Route>,
    began: Instant,
}

impl UsedUrls {
    pub(super) fn new(now: Instant) -> Self {
        Self { last_use: Router::default(), urls: Vec::new(), began: now }
    }

    pub(super) fn len(&self) -> usize {
        self.urls.len()
    }

    /// Records a use of a url. Returns whether it is among those that are used.
    pub(super) fn use_url(&self, url: &Route, now: Instant) -> bool {
        self.last_use.get(url).inspect(|last_use| last_use.store(self.age(now), Ordering::Relaxed)).is_some()
    }

    /// Records a use of a path without parameters. Returns whether its url is among those that are
    /// used.
    pub(super) fn use_path(&self, method: &str, path: &str, now: Instant) -> bool {
        let found = self.last_use.find(method, path);
        found.inspect(|found| found.value.store(self.age(now), Ordering::Relaxed)).is_some()
    }

    /// Adds a url. Beyond the limit, those that were not used for longest are dropped.
    pub(super) fn add(&mut self, url: &Route, now: Instant) {
        if self.use_url(url, now) {
            return;
        }
        if self.urls.len() >= MAX_USED {
            self.drop_least_used();
        }
        let age = self.age(now);
        // A url of which there are too many like it is asked for at each call.
        if self.last_use.entry(url, || AtomicU64::new(age)).is_ok() {
            self.urls.push(url.clone());
        }
    }

    /// Drops an eighth of the urls, those that were not used for longest.
    pub(super) fn drop_least_used(&mut self) {
        let last_use = |url: &Route| self.last_use.get(url).map_or(0, |last_use| last_use.load(Ordering::Relaxed));
        let mut by_use: Vec<_> = self.urls.drain(..).map(|url| (last_use(&url), url)).collect();
        by_use.sort_by_key(|(last_use, _)| *last_use);
        let dropped = by_use.len().div_ceil(DROPPED);
        for (_, url) in by_use.drain(..dropped) {
            self.last_use.remove(&url);
        }
        self.urls = by_use.into_iter().map(|(_, url)| url).collect();
    }

    pub(super) fn urls(&self) -> Vec<String> {
        self.urls.iter().map(|url| url.as_str().to_owned()).collect()
    }

    fn age(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn route(text: &str) -> Route {
        Route::parse(text).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn names_of_parameters_make_no_difference() {
        let now = Instant::now();
        let mut used = UsedUrls::new(now);
        used.add(&route("GET/a/{id}"), now);
        used.add(&route("GET/a/{other}"), now);
        used.add(&route("EVENT/told"), now);
        assert_eq!(used.urls(), ["GET/a/{id}", "EVENT/told"]);
        assert!(used.use_url(&route("GET/a/{x}"), now) && used.use_path("EVENT", "/told", now));
        assert!(!used.use_url(&route("GET/a"), now) && !used.use_path("EVENT", "/other", now));
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_limit_what_was_not_used_for_longest_is_dropped() {
        let start = Instant::now();
        let mut used = UsedUrls::new(start);
        let url = |number: usize| route(&format!("GET/{number}"));
        let at = |ms: usize| start + Duration::from_millis(ms as u64);
        (0..MAX_USED).for_each(|number| used.add(&url(number), at(number)));
        assert_eq!(used.len(), MAX_USED);
        assert!(used.use_url(&url(0), at(1000)), "the oldest is used again");
        used.add(&url(1000), at(1001));
        assert_eq!(used.len(), MAX_USED - MAX_USED / DROPPED + 1);
        assert!(used.use_url(&url(0), at(1002)) && used.use_url(&url(1000), at(1002)));
        let gone = (1..MAX_USED).filter(|number| !used.use_url(&url(*number), at(1002)));
        assert!(gone.eq(1..=MAX_USED / DROPPED));
        while used.len() > 0 {
            used.drop_least_used();
        }
        assert!(!used.use_url(&url(1000), at(1003)) && used.urls().is_empty());
    }
}
