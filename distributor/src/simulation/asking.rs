//! What simulated nodes offer and use. Some can ask: they have a partial view if there are many.

use protocol::{EVENT_PREFIX, Response, read_needed, write_need};

use super::*;

/// Urls of nodes. Some are preferred to others for some paths, and two differ by a name only.
const URLS: [&str; 7] = ["GET/a", "GET/a/{id}", "GET/a/{other}", "GET/a/new", "GET/{all}/new", "POST/b", "EVENT/e"];
/// What nodes call and emit.
const ROUTES: [&str; 7] = ["GET/a", "GET/a/7", "GET/a/new", "GET/b/new", "POST/b", "EVENT/e", "GET/none"];
/// How many nodes there are, in one history or another, when a node has a partial view.
const TELL_ALL_UP_TO: [usize; 4] = [0, 0, 3, 1000];

/// What a node that can ask has used, and asks.
#[derive(Default)]
pub(super) struct SimAsking {
    pub(super) uses: BTreeSet<String>,
    /// Whether the last list says that the node has a partial view.
    pub(super) is_partial: bool,
    /// Whether a list has come over this connection.
    has_list: bool,
    waiting: BTreeSet<&'static str>,
    question: Option<SimQuestion>,
    next_key: u64,
    /// When to ask again.
    ask_at: Option<Instant>,
}

struct SimQuestion {
    key: u64,
    routes: Vec<&'static str>,
    /// Whether the node has registered since.
    has_registered: bool,
}

pub(super) fn config(rng: &mut Rng) -> Config {
    Config { tell_all_up_to: TELL_ALL_UP_TO[rng.usize(0..TELL_ALL_UP_TO.len())], ..Config::default() }
}

/// The urls that a node offers.
pub(super) fn urls(rng: &mut Rng) -> Vec<&'static str> {
    URLS.into_iter().filter(|_| rng.u8(0..4) == 0).collect()
}

impl SimAsking {
    /// What the cache file keeps of it.
    pub(super) fn cached(self) -> Self {
        Self { uses: self.uses, is_partial: self.is_partial, ..Self::default() }
    }

    /// Records a new connection: questions of an earlier one are not answered.
    pub(super) fn record_connect(&mut self) {
        (self.has_list, self.question, self.ask_at) = (false, None, None);
        self.waiting.clear();
    }

    /// Records that a list has come.
    pub(super) fn record_list(&mut self, is_partial: bool) {
        (self.is_partial, self.has_list) = (is_partial, true);
    }

    /// Records that the node registers, with what it uses.
    pub(super) fn record_registration(&mut self) {
        if let Some(question) = &mut self.question {
            question.has_registered = true;
        }
    }

    /// Whether no answer is waited for.
    pub(super) fn is_answered(&self) -> bool {
        self.waiting.is_empty() && self.question.is_none()
    }

    /// Whether a node with these urls is one that the node uses, or may be preferred to one. Says
    /// the same as the Distributor's interests, by the definition in the protocol.
    pub(super) fn includes(&self, urls: &[&str]) -> bool {
        let is_one = |used: &str, url: &str| {
            let (used, url): (Vec<&str>, Vec<&str>) = (used.split('/').collect(), url.split('/').collect());
            let fixed = used.iter().position(|segment| segment.starts_with('{')).unwrap_or(used.len());
            used.len() == url.len() && used[..fixed] == url[..fixed]
        };
        urls.iter().any(|url| self.uses.iter().any(|used| is_one(used, url)))
    }

    /// The next question, if one is due.
    fn next_question(&mut self, now: Instant) -> Option<Vec<u8>> {
        let is_due = self.has_list && self.question.is_none() && self.ask_at.is_none_or(|at| at <= now);
        if !is_due || self.waiting.is_empty() {
            return None;
        }
        let routes: Vec<_> = std::mem::take(&mut self.waiting).into_iter().collect();
        self.next_key += 1;
        let mut out = BytesMut::new();
        write_need(&mut out, self.next_key, routes.iter().copied());
        self.question = Some(SimQuestion { key: self.next_key, routes, has_registered: false });
        Some(out.to_vec())
    }
}

/// Whether two urls differ by names of parameters at most. The Distributor answers with the name
/// that was registered first, even if that node has gone.
fn is_same(one: &str, other: &str) -> bool {
    let are_same = |(one, other): (&str, &str)| one == other || one.starts_with('{') && other.starts_with('{');
    one.matches('/').count() == other.matches('/').count() && one.split('/').zip(other.split('/')).all(are_same)
}

impl SimNode {
    /// Handles an answer, or the refusal of one. Returns whether the node registers again: it has
    /// done so before it knew of the answer.
    pub(super) fn handle_answer(&mut self, now: Instant, packet: &Packet<'_>) -> bool {
        let key = packet.key.as_ref().and_then(protocol::Key::number);
        let asking = self.asking.as_mut().expect("S11: a node that cannot ask is not answered");
        let question = asking.question.take().expect("S11: only a question is answered");
        assert_eq!(Some(question.key), key, "S11: the question is answered");
        if let Some(refusal) = Response::from_packet(packet).reason {
            assert_eq!(refusal, "busy", "S11: there is room for what nodes use");
            let wait = Response::from_packet(packet).retry_after.expect("S11: it is said when to ask again");
            asking.ask_at = Some(now + wait);
            asking.waiting.extend(question.routes);
            return false;
        }
        let needs = read_needed(packet.params).expect("S3: nothing unreadable is sent");
        assert_eq!(needs.len(), question.routes.len(), "S11: each route is answered");
        for (route, url) in question.routes.iter().zip(&needs).filter_map(|(route, url)| Some((route, url.as_ref()?))) {
            let is_of = |(segment, of_url): (&str, &str)| segment == of_url || of_url.starts_with('{');
            let fits = route.split('/').zip(url.split('/')).all(is_of);
            assert!(fits && route.matches('/').count() == url.matches('/').count(), "S11: {route} is no {url}");
            let is_offered =
                |entry: &str| URLS.iter().any(|known| is_same(known, url) && entry.contains(&format!("\"{known}\"")));
            let is_known = self.replica.entries().any(|(_, entry)| is_offered(entry));
            let is_event = url.starts_with(EVENT_PREFIX);
            assert!(is_known || is_event || !asking.is_partial, "S11: who offers {url} is told before the answer");
        }
        asking.uses.extend(needs.into_iter().flatten());
        question.has_registered
    }
}

impl World {
    /// Lets a node ask for something that it is about to call.
    pub(super) fn use_route(&mut self, number: usize) {
        let route = ROUTES[self.rng.usize(0..ROUTES.len())];
        if let Some(asking) = &mut self.nodes[number].asking
            && asking.has_list
        {
            asking.waiting.insert(route);
        }
    }

    /// Lets a node register without a url that it has not used for long.
    pub(super) fn forget_url(&mut self, number: usize) {
        let Some(asking) = &mut self.nodes[number].asking else { return };
        let Some(url) = asking.uses.iter().nth(self.rng.usize(0..8)).cloned() else { return };
        asking.uses.remove(&url);
        self.register_again(number);
    }

    /// Lets a node register again over its connection, if it has one.
    pub(super) fn register_again(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        if node.is_up
            && let Some(connection) = node.connection.and_then(|id| self.connections.get_mut(&id))
        {
            connection.up.send(&node.registration());
        }
    }

    /// Lets nodes send their questions.
    pub(super) fn ask(&mut self) {
        for node in self.nodes.iter_mut().filter(|node| node.is_up && !node.is_frozen) {
            if let Some(connection) = node.connection.and_then(|id| self.connections.get_mut(&id))
                && let Some(question) = node.asking.as_mut().and_then(|asking| asking.next_question(self.now))
            {
                connection.up.send(&question);
            }
        }
    }
}
