//! The questions of a node with a partial view: one packet at a time, and one question for all that
//! wait for the same. Without I/O.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use protocol::{MAX_NEED_BYTES, MAX_NEED_ROUTES};
use tokio::sync::watch;
use tokio::time::Instant;

/// Routes that are asked for at a time. It is more than a program calls for the first time at
/// once, unless it invents routes.
const MAX_ASKED: usize = 1024;
/// Bytes of the routes of one packet, which is within the limit of a Distributor even if each byte
/// has to be escaped.
const MAX_PACKET_BYTES: usize = MAX_NEED_BYTES + 512;
/// How long it is remembered that no node offers a route, so that calls of it do not flood the
/// Distributor. A node that comes meanwhile is found after this time.
const NOT_OFFERED_TIME: Duration = Duration::from_secs(1);
/// Routes of which that is remembered.
const MAX_NOT_OFFERED: usize = 1024;
/// Packets a second, and at once: a node that invents routes leaves the Distributor time for
/// others.
const PER_SECOND: f64 = 100.0;
const BURST: f64 = 64.0;

/// The answer to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QuestionAnswer {
    /// Nodes offer the route, and are known.
    Offered,
    /// No node offers it.
    NotOffered,
    /// The Distributor could not be asked, for this reason.
    Failed(&'static str),
}

/// Whether a question is answered, under way, or new.
#[derive(Debug)]
pub(super) enum QuestionState {
    Known(QuestionAnswer),
    /// A question for this route is under way.
    UnderWay(watch::Receiver<Option<QuestionAnswer>>),
    New(watch::Receiver<Option<QuestionAnswer>>),
}

#[derive(Debug)]
pub(super) struct Questions {
    /// Whether there is a session.
    is_open: bool,
    /// All routes that are asked for, with those who wait.
    asked: HashMap<Box<str>, watch::Sender<Option<QuestionAnswer>>>,
    /// The routes that have not been asked for yet.
    waiting: VecDeque<Box<str>>,
    sent: Option<SentQuestion>,
    /// Maximum number of routes of the next packet: fewer once the Distributor has refused that
    /// many.
    max_routes: usize,
    /// The Distributor has put off the answer until then.
    not_before: Option<Instant>,
    next_key: u64,
    /// Packets that may be sent at once, at this time.
    tokens: (f64, Instant),
    not_offered: HashSet<Box<str>>,
    /// The oldest first.
    not_offered_by_age: VecDeque<(Instant, Box<str>)>,
}

#[derive(Debug)]
struct SentQuestion {
    key: u64,
    routes: Vec<Box<str>>,
    /// Whether the node has registered after it.
    has_registered: bool,
}

/// The key of the first question. Requests for lists have lower ones.
const FIRST_KEY: u64 = 2;

impl Questions {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            is_open: false,
            asked: HashMap::new(),
            waiting: VecDeque::new(),
            sent: None,
            max_routes: MAX_NEED_ROUTES,
            not_before: None,
            next_key: FIRST_KEY,
            tokens: (BURST, now),
            not_offered: HashSet::new(),
            not_offered_by_age: VecDeque::new(),
        }
    }

    pub(super) fn open(&mut self) {
        self.is_open = true;
    }

    /// Tells all that wait that there is no session any more.
    pub(super) fn close(&mut self) {
        self.is_open = false;
        (self.sent, self.not_before, self.max_routes) = (None, None, MAX_NEED_ROUTES);
        self.waiting.clear();
        for (_, waiting) in self.asked.drain() {
            waiting.send_replace(Some(QuestionAnswer::Failed(LOST)));
        }
    }

    pub(super) fn ask(&mut self, route: &str, now: Instant) -> QuestionState {
        if !self.is_open {
            return QuestionState::Known(QuestionAnswer::Failed("no Distributor is connected"));
        }
        self.forget_not_offered(now);
        if self.not_offered.contains(route) {
            return QuestionState::Known(QuestionAnswer::NotOffered);
        }
        if let Some(waiting) = self.asked.get(route) {
            return QuestionState::UnderWay(waiting.subscribe());
        }
        if route.len() > MAX_NEED_BYTES {
            return QuestionState::Known(QuestionAnswer::Failed("the path is longer than a question may be"));
        }
        if self.asked.len() >= MAX_ASKED {
            return QuestionState::Known(QuestionAnswer::Failed("too many questions wait for the Distributor"));
        }
        let (sender, receiver) = watch::channel(None);
        self.asked.insert(route.into(), sender);
        self.waiting.push_back(route.into());
        QuestionState::New(receiver)
    }

    /// How many routes the packet has that is due now; 0 if there is none. The one before has to be
    /// answered first.
    pub(super) fn due(&mut self, now: Instant) -> usize {
        if self.sent.is_some() || self.not_before.is_some_and(|at| now < at) {
            return 0;
        }
        // Those who have asked may have gone.
        let Self { waiting, asked, .. } = self;
        waiting.retain(|route| {
            let is_wanted = asked.get(route).is_some_and(|sender| sender.receiver_count() > 0);
            if !is_wanted {
                asked.remove(route);
            }
            is_wanted
        });
        // A timer may come a moment before the whole token.
        if self.waiting.is_empty() || self.tokens(now) <= 1.0 - 1e-6 {
            return 0;
        }
        let mut bytes = 0;
        let fitting = self.waiting.iter().take(self.max_routes).take_while(|route| {
            bytes += route.len();
            bytes <= MAX_PACKET_BYTES
        });
        // The first one is sent in any case.
        fitting.count().max(1)
    }

    /// The key and the routes of the packet to send now: at most `room` routes.
    pub(super) fn next(&mut self, now: Instant, room: usize) -> Option<(u64, Vec<Box<str>>)> {
        let due = self.due(now).min(room);
        if due == 0 {
            return None;
        }
        self.tokens = (self.tokens(now) - 1.0, now);
        let routes: Vec<_> = self.waiting.drain(..due).collect();
        let key = self.next_key;
        self.next_key += 1;
        self.sent = Some(SentQuestion { key, routes: routes.clone(), has_registered: false });
        Some((key, routes))
    }

    /// When to ask for the next packet again, although nothing is new.
    pub(super) fn next_at(&self) -> Option<Instant> {
        if self.sent.is_some() || self.waiting.is_empty() {
            return None;
        }
        let (tokens, at) = self.tokens;
        let paced = (tokens < 1.0).then(|| at + Duration::from_secs_f64((1.0 - tokens) / PER_SECOND));
        self.not_before.max(paced)
    }

    pub(super) fn is_sent(&self, key: u64) -> bool {
        self.sent.as_ref().is_some_and(|sent| sent.key == key)
    }

    /// Records that the node registers anew.
    pub(super) fn record_registration(&mut self) {
        if let Some(sent) = &mut self.sent {
            sent.has_registered = true;
        }
    }

    /// Returns whether the node has registered since it has asked.
    pub(super) fn answer(&mut self, key: u64, needs: &[Option<String>], now: Instant) -> bool {
        let Some(sent) = self.sent.take_if(|sent| sent.key == key) else { return false };
        self.not_before = None;
        let mut needs = needs.iter();
        for route in sent.routes {
            let answer = match needs.next() {
                Some(Some(_url)) => QuestionAnswer::Offered,
                Some(None) => QuestionAnswer::NotOffered,
                None => QuestionAnswer::Failed("the Distributor's answer is cut"),
            };
            self.settle(&route, answer);
            if answer == QuestionAnswer::NotOffered {
                self.remember_not_offered(route, now);
            }
        }
        sent.has_registered
    }

    /// Asks the question with this key again at `until`.
    pub(super) fn postpone(&mut self, key: u64, until: Instant) {
        if let Some(sent) = self.sent.take_if(|sent| sent.key == key) {
            sent.routes.into_iter().rev().for_each(|route| self.waiting.push_front(route));
            self.not_before = Some(until);
        }
    }

    /// Asks for at most half as many routes at a time from now on, because those of this packet are
    /// too many beside the `used` urls of the node. Returns false if there are more of those urls,
    /// or nothing to halve; then the packet is still under way.
    pub(super) fn shrink_question(&mut self, key: u64, used: usize, now: Instant) -> bool {
        let routes = self.sent.as_ref().filter(|sent| sent.key == key).map_or(0, |sent| sent.routes.len());
        let is_halved = routes > used.max(1);
        if is_halved {
            self.max_routes = routes / 2;
            self.postpone(key, now);
        }
        is_halved
    }

    pub(super) fn refuse(&mut self, key: u64, why: &'static str) {
        if let Some(sent) = self.sent.take_if(|sent| sent.key == key) {
            sent.routes.iter().for_each(|route| self.settle(route, QuestionAnswer::Failed(why)));
        }
    }

    fn settle(&mut self, route: &str, answer: QuestionAnswer) {
        if let Some(waiting) = self.asked.remove(route) {
            waiting.send_replace(Some(answer));
        }
    }

    fn remember_not_offered(&mut self, route: Box<str>, now: Instant) {
        if self.not_offered.insert(route.clone()) {
            self.not_offered_by_age.push_back((now, route));
        }
        if self.not_offered_by_age.len() > MAX_NOT_OFFERED
            && let Some((_, oldest)) = self.not_offered_by_age.pop_front()
        {
            self.not_offered.remove(&oldest);
        }
    }

    fn forget_not_offered(&mut self, now: Instant) {
        while let Some((_, route)) = self.not_offered_by_age.pop_front_if(|(since, _)| *since + NOT_OFFERED_TIME <= now)
        {
            self.not_offered.remove(&route);
        }
    }

    /// The packets that may be sent at once.
    fn tokens(&self, now: Instant) -> f64 {
        let (tokens, at) = self.tokens;
        (tokens + now.saturating_duration_since(at).as_secs_f64() * PER_SECOND).min(BURST)
    }
}

const LOST: &str = "the connection to the Distributor was lost";

#[cfg(test)]
mod tests {
    use super::*;

    fn questions() -> (Questions, Instant) {
        let now = Instant::now();
        let mut questions = Questions::new(now);
        questions.open();
        (questions, now)
    }

    fn wait(questions: &mut Questions, route: &str, now: Instant) -> watch::Receiver<Option<QuestionAnswer>> {
        match questions.ask(route, now) {
            QuestionState::UnderWay(receiver) | QuestionState::New(receiver) => receiver,
            QuestionState::Known(answer) => panic!("{route}: {answer:?}"),
        }
    }

    fn known(questions: &mut Questions, route: &str, now: Instant) -> Option<QuestionAnswer> {
        match questions.ask(route, now) {
            QuestionState::Known(answer) => Some(answer),
            QuestionState::UnderWay(_) | QuestionState::New(_) => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn callers_of_one_route_share_a_question_and_one_packet_is_under_way() {
        let (mut questions, now) = questions();
        let first = wait(&mut questions, "GET/a", now);
        assert!(matches!(questions.ask("GET/a", now), QuestionState::UnderWay(_)));
        let (key, routes) = questions.next(now, MAX_NEED_ROUTES).unwrap();
        assert_eq!(routes, ["GET/a".into()]);
        let (second, third) = (wait(&mut questions, "GET/b", now), wait(&mut questions, "GET/c", now));
        assert!(questions.next(now, MAX_NEED_ROUTES).is_none() && questions.next_at().is_none());
        questions.answer(key + 1, &[None], now);
        assert!(questions.is_sent(key), "that is the answer to another one");
        questions.answer(key, &[Some("GET/a".to_owned())], now);
        assert_eq!(*first.borrow(), Some(QuestionAnswer::Offered));
        drop(third);
        let (key, routes) = questions.next(now, MAX_NEED_ROUTES).unwrap();
        assert_eq!(routes, ["GET/b".into()], "nobody waits for the other one");
        questions.answer(key, &[], now);
        assert!(matches!(*second.borrow(), Some(QuestionAnswer::Failed(_))), "the answer is cut");
    }

    #[tokio::test(start_paused = true)]
    async fn that_no_node_offers_a_route_is_remembered_for_a_while() {
        let (mut questions, now) = questions();
        for number in 0..=MAX_NOT_OFFERED {
            let _waiting = wait(&mut questions, &format!("GET/{number}"), now);
            questions.tokens = (BURST, now);
            let (key, routes) = questions.next(now, MAX_NEED_ROUTES).unwrap();
            questions.answer(key, &vec![None; routes.len()], now);
        }
        assert_eq!(
            (questions.not_offered.len(), questions.not_offered_by_age.len()),
            (MAX_NOT_OFFERED, MAX_NOT_OFFERED)
        );
        assert_eq!(known(&mut questions, "GET/0", now), None, "the oldest is forgotten");
        assert_eq!(known(&mut questions, "GET/1", now), Some(QuestionAnswer::NotOffered));
        let later = now + NOT_OFFERED_TIME;
        assert_eq!(known(&mut questions, "GET/1", later), None);
        assert!(questions.not_offered.is_empty() && questions.not_offered_by_age.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn questions_are_bounded_in_number_size_and_pace() {
        let (mut questions, start) = questions();
        let long = "x".repeat(MAX_NEED_BYTES);
        assert!(matches!(known(&mut questions, &format!("GET/{long}"), start), Some(QuestionAnswer::Failed(_))));
        let waiting: Vec<_> =
            (0..MAX_ASKED).map(|number| wait(&mut questions, &format!("GET/{number}"), start)).collect();
        assert!(matches!(known(&mut questions, "GET/more", start), Some(QuestionAnswer::Failed(_))));
        assert!(matches!(questions.ask("GET/0", start), QuestionState::UnderWay(_)), "it waits with another one");
        let mut packets = 0;
        while let Some((key, routes)) = questions.next(start, MAX_NEED_ROUTES) {
            assert_eq!(routes.len(), MAX_NEED_ROUTES);
            questions.answer(key, &vec![None; routes.len()], start);
            packets += 1;
        }
        assert_eq!(packets, MAX_ASKED / MAX_NEED_ROUTES);
        assert!(waiting.iter().all(|waiting| *waiting.borrow() == Some(QuestionAnswer::NotOffered)));
        let paths: Vec<String> =
            (0..4).map(|number| format!("GET/{number}{}", "y".repeat(MAX_NEED_BYTES / 3))).collect();
        let _waiting: Vec<_> = paths.iter().map(|path| wait(&mut questions, path, start)).collect();
        assert_eq!(questions.next(start, MAX_NEED_ROUTES).unwrap().1.len(), 3, "more bytes do not fit into a packet");
        // One after the other, as fast as the pace is.
        questions.close();
        questions.open();
        questions.tokens = (0.0, start);
        let mut now = start;
        for number in 0..200 {
            let _waiting = wait(&mut questions, &format!("POST/{number}"), now);
            while questions.next(now, MAX_NEED_ROUTES).is_none() {
                now = questions.next_at().unwrap().max(now + Duration::from_micros(1));
            }
            let key = questions.next_key - 1;
            questions.answer(key, &[None], now);
        }
        let took = now - start;
        assert!((Duration::from_millis(1990)..Duration::from_millis(2100)).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_routes_are_halved_until_so_few_are_taken() {
        let (mut questions, now) = questions();
        let waiting: Vec<_> = (0..40).map(|number| wait(&mut questions, &format!("GET/{number}"), now)).collect();
        let mut sizes = Vec::new();
        let mut used = 8;
        while let Some((key, routes)) = questions.next(now, MAX_NEED_ROUTES) {
            sizes.push(routes.len());
            if routes.len() > 5 {
                assert!(!questions.shrink_question(key, routes.len(), now), "the node uses as many urls");
                assert!(!questions.shrink_question(key + 1, used, now), "that is another packet");
                assert!(questions.shrink_question(key, used, now));
                used = 0;
            } else {
                questions.answer(key, &vec![None; routes.len()], now);
            }
        }
        assert_eq!(sizes, [40, 20, 10, 5, 5, 5, 5, 5, 5, 5, 5]);
        assert!(waiting.iter().all(|waiting| *waiting.borrow() == Some(QuestionAnswer::NotOffered)));
        let _waiting = wait(&mut questions, "POST/one", now);
        let (key, _) = questions.next(now, MAX_NEED_ROUTES).unwrap();
        assert!(!questions.shrink_question(key, 0, now), "one cannot be halved");
        questions.close();
        questions.open();
        let _waiting: Vec<_> = (0..40).map(|number| wait(&mut questions, &format!("PUT/{number}"), now)).collect();
        assert_eq!(questions.next(now, MAX_NEED_ROUTES).unwrap().1.len(), 40, "another Distributor may take more");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_may_be_put_off_refused_or_never_come() {
        let (mut questions, now) = questions();
        let waiting = wait(&mut questions, "GET/a", now);
        let (key, _) = questions.next(now, MAX_NEED_ROUTES).unwrap();
        let later = now + Duration::from_millis(10);
        questions.postpone(key, later);
        assert_eq!((questions.next(now, MAX_NEED_ROUTES), questions.next_at()), (None, Some(later)));
        let (key, routes) = questions.next(later, MAX_NEED_ROUTES).unwrap();
        assert_eq!(routes, ["GET/a".into()]);
        questions.record_registration();
        questions.refuse(key, "no");
        assert_eq!(*waiting.borrow(), Some(QuestionAnswer::Failed("no")));
        let waiting = wait(&mut questions, "GET/a", later);
        questions.next(later, MAX_NEED_ROUTES).unwrap();
        questions.close();
        assert_eq!(*waiting.borrow(), Some(QuestionAnswer::Failed(LOST)));
        assert!(
            matches!(known(&mut questions, "GET/a", later), Some(QuestionAnswer::Failed(_))),
            "there is no session"
        );
        questions.open();
        let _waiting = wait(&mut questions, "GET/a", later);
        let (key, _) = questions.next(later, MAX_NEED_ROUTES).unwrap();
        questions.record_registration();
        assert!(questions.answer(key, &[None], later), "it has registered meanwhile");
    }
}
