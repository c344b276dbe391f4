//! The urls that this node uses, and its questions to the Distributor, if it has a partial view.
//!
//! It must not send a question: the session with the Distributor takes those that are due.

pub(crate) mod questions;
mod used_urls;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use protocol::{EVENT_METHOD, Route};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use self::questions::{QuestionAnswer, QuestionState, Questions};
use self::used_urls::{MAX_USED, UsedUrls};

/// The needs of a node that can ask the Distributor. All threads of a process share them.
#[derive(Debug)]
pub(crate) struct Needs {
    /// Whether the node asks for the urls that it needs. Other nodes are told of all nodes, or of
    /// the interests that their author has named.
    can_ask: bool,
    /// Whether the node has a partial view.
    is_partial: AtomicBool,
    /// Whether the Distributor has no room for all that the node uses: until the session ends,
    /// nothing is added that the node has called while it was told of all.
    is_reduced: AtomicBool,
    used: RwLock<UsedUrls>,
    questions: Mutex<Questions>,
    /// Notified when there may be a question to send.
    asked: Notify,
}

/// The answer to come.
#[derive(Debug)]
pub(crate) struct PendingAnswer(watch::Receiver<Option<QuestionAnswer>>);

impl Needs {
    pub(crate) fn new(can_ask: bool, now: Instant) -> Self {
        Self {
            can_ask,
            is_partial: AtomicBool::new(false),
            is_reduced: AtomicBool::new(false),
            used: RwLock::new(UsedUrls::new(now)),
            questions: Mutex::new(Questions::new(now)),
            asked: Notify::new(),
        }
    }

    pub(crate) fn can_ask(&self) -> bool {
        self.can_ask
    }

    /// Whether the node has a partial view, and asks before it uses something new.
    pub(crate) fn is_partial(&self) -> bool {
        self.is_partial.load(Ordering::Relaxed)
    }

    /// Begins with what an earlier process of this node has used.
    pub(crate) fn seed(&self, urls: &[String], is_partial: bool, now: Instant) {
        if self.can_ask {
            self.is_partial.store(is_partial, Ordering::Relaxed);
            urls.iter().filter_map(|url| Route::parse(url).ok()).for_each(|url| self.add(&url, now));
        }
    }

    /// Records that the Distributor has sent a list of all nodes, or a partial view. It can be
    /// asked as long as the session lasts.
    pub(crate) fn record_list(&self, is_partial: bool) {
        if self.can_ask {
            self.is_partial.store(is_partial, Ordering::Relaxed);
            self.questions().open();
        }
    }

    /// Records that no Distributor can be asked any more.
    pub(crate) fn record_disconnect(&self) {
        self.is_reduced.store(false, Ordering::Relaxed);
        self.questions().close();
    }

    /// Whether the node is told of all nodes that offer this url, which it is about to use.
    pub(crate) fn use_url(&self, url: &Route, now: Instant) -> bool {
        self.read_used().use_url(url, now)
    }

    /// Whether the node is told of all subscribers of this event, which it is about to emit.
    pub(crate) fn use_event(&self, path: &str, now: Instant) -> bool {
        self.read_used().use_path(EVENT_METHOD, path, now)
    }

    /// Asks who offers a route, such as `GET/members/7`. Callers that ask for the same share one
    /// question.
    pub(crate) fn ask(&self, route: &str, now: Instant) -> Result<QuestionAnswer, PendingAnswer> {
        match self.questions().ask(route, now) {
            QuestionState::Known(answer) => Ok(answer),
            QuestionState::UnderWay(answer) => Err(PendingAnswer(answer)),
            QuestionState::New(answer) => {
                self.asked.notify_one();
                Err(PendingAnswer(answer))
            }
        }
    }

    /// Completes when there may be a question to send. Cancel safe.
    pub(crate) async fn wait_asked(&self) {
        self.asked.notified().await;
    }

    /// Makes room for what the next question brings. Returns whether something had to be dropped:
    /// then the node registers again before it asks.
    pub(crate) fn make_room(&self, now: Instant) -> bool {
        let due = self.questions().due(now);
        let mut used = self.write_used();
        let has_room = used.len() + due <= MAX_USED;
        while used.len() + due > MAX_USED {
            used.drop_least_used();
        }
        !has_room
    }

    /// The key and the routes of the question to send now, if there is one.
    pub(crate) fn next_question(&self, now: Instant) -> Option<(u64, Vec<Box<str>>)> {
        // Routes may be asked for since there was room for all.
        let room = MAX_USED.saturating_sub(self.read_used().len());
        self.questions().next(now, room)
    }

    /// When to look for a question again, although none is asked.
    pub(crate) fn next_question_at(&self) -> Option<Instant> {
        self.questions().next_at()
    }

    /// Takes the used urls for a registration, and records that the node has registered.
    pub(crate) fn take_urls_to_register(&self) -> Vec<String> {
        self.questions().record_registration();
        self.read_used().urls()
    }

    /// Passes on the answer of the Distributor. Returns whether the node has to register again: it
    /// has done so meanwhile, without what it has learned now.
    pub(crate) fn answer(&self, key: u64, needs: &[Option<String>], now: Instant) -> bool {
        // The learned urls are added before the tasks that wait for the answer are woken.
        let learned: Vec<Route> = needs.iter().flatten().filter_map(|url| Route::parse(url).ok()).collect();
        learned.iter().for_each(|url| self.add(url, now));
        let has_registered = self.questions().answer(key, needs, now);
        has_registered && !learned.is_empty()
    }

    /// Asks the Distributor, which has put off the answer, again at `until`.
    pub(crate) fn postpone(&self, key: u64, until: Instant) {
        self.questions().postpone(key, until);
    }

    /// Shrinks a question, because the Distributor takes fewer urls than this node uses and asks
    /// for. If the node asks for more than it uses, it asks again, for half as many at a time.
    /// Returns whether it does.
    pub(crate) fn shrink_question(&self, key: u64, now: Instant) -> bool {
        let used = self.read_used().len();
        self.questions().shrink_question(key, used, now)
    }

    /// Fails a question that the Distributor does not answer.
    pub(crate) fn refuse(&self, key: u64, why: &'static str) {
        self.questions().refuse(key, why);
    }

    /// Whether this is the key of a question that is not answered.
    pub(crate) fn is_question(&self, key: u64) -> bool {
        self.questions().is_sent(key)
    }

    /// Drops half of the used urls, because the Distributor takes fewer. Returns whether there were
    /// any to drop.
    pub(crate) fn halve_used_urls(&self) -> bool {
        self.is_reduced.store(true, Ordering::Relaxed);
        let mut used = self.write_used();
        let before = used.len();
        while used.len() > before / 2 {
            used.drop_least_used();
        }
        before > 0
    }

    /// Whether what the node calls while it is told of all counts as used.
    pub(crate) fn adds_called(&self) -> bool {
        self.can_ask && !self.is_partial() && !self.is_reduced.load(Ordering::Relaxed)
    }

    /// The urls that the node has used.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.read_used().urls()
    }

    /// Records that the node has used a url that it was told of without asking.
    pub(crate) fn add(&self, url: &Route, now: Instant) {
        self.write_used().add(url, now);
    }

    fn read_used(&self) -> RwLockReadGuard<'_, UsedUrls> {
        self.used.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_used(&self) -> RwLockWriteGuard<'_, UsedUrls> {
        self.used.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn questions(&self) -> MutexGuard<'_, Questions> {
        self.questions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PendingAnswer {
    /// Waits for the answer until `deadline`. Cancel safe.
    pub(crate) async fn answer(mut self, deadline: Instant) -> QuestionAnswer {
        const LATE: QuestionAnswer = QuestionAnswer::Failed("the Distributor has not answered in time");
        let answered = timeout_at(deadline, self.0.wait_for(Option::is_some)).await;
        answered.ok().and_then(Result::ok).and_then(|answer| *answer).unwrap_or(LATE)
    }
}

/// The time after which a node that waits for a provider asks again.
pub(crate) const ASK_INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_node_of_which_less_is_taken_halves_what_it_uses_until_nothing_is_left() {
        let now = Instant::now();
        let needs = Needs::new(true, now);
        (0..20).for_each(|number| needs.add(&Route::parse(&format!("GET/{number}")).unwrap(), now));
        assert!(needs.adds_called());
        let mut left = Vec::new();
        while needs.halve_used_urls() {
            left.push(needs.take_urls_to_register().len());
            assert!(!needs.adds_called(), "what is dropped does not come back");
        }
        assert_eq!(left, [10, 5, 2, 1, 0]);
        needs.record_disconnect();
        assert!(needs.adds_called(), "another Distributor may take more");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_registered_before_a_question_is_not_registered_again_after_its_answer() {
        let now = Instant::now();
        let needs = Needs::new(true, now);
        needs.record_list(true);
        (0..MAX_USED).for_each(|number| needs.add(&Route::parse(&format!("GET/{number}")).unwrap(), now));
        assert!(!needs.make_room(now), "nothing is asked for");
        let Err(asking) = needs.ask("GET/early", now) else { panic!("it is asked for") };
        assert_eq!(needs.next_question(now), None, "there is no room yet");
        drop(asking);
        for (registers_meanwhile, route) in [(false, "GET/a"), (true, "GET/b")] {
            let Err(_asking) = needs.ask(route, now) else { panic!("{route} is asked for") };
            if needs.make_room(now) {
                assert_eq!(route, "GET/a", "then there is room for more");
                assert!(needs.take_urls_to_register().len() < MAX_USED);
            }
            let (key, routes) = needs.next_question(now).unwrap();
            assert_eq!(routes, [route.into()]);
            if registers_meanwhile {
                needs.take_urls_to_register();
            }
            assert_eq!(needs.answer(key, &[Some(route.to_owned())], now), registers_meanwhile);
        }
    }
}
