//! Finds the route that a method and path belong to. The Distributor answers questions with it, and
//! nodes find providers and handlers: so all agree on what is offered. It must not know who offers
//! a route, or what a value is.

mod event_patterns;

use std::hash::{BuildHasher, BuildHasherDefault, Hasher};

use foldhash::fast::RandomState;
use foldhash::{HashMap, HashMapExt};
use smol_str::SmolStr;

use self::event_patterns::EventPatterns;
use crate::{EVENT_METHOD, Route, RouteError, Segment};

/// Maximum number of shapes among routes with parameters that have the same method, number of
/// segments, and first segment. A shape says which segments are parameters. A look-up tries each
/// shape once, so this bounds its cost, whatever is registered. Routes of up to five segments
/// cannot have more shapes.
const MAX_SHAPES: usize = 16;
/// Maximum number of segments of a route with parameters.
const MAX_SEGMENTS: usize = 64;

/// A value per route. A literal segment wins over a parameter, from left to right. A subscription
/// may be a pattern of events: a word wins over a `*`, and a `*` over a `>`.
///
/// A look-up tries each shape once, 33 at most, and never goes back. A tree would have to try two
/// branches at each segment. Patterns of events are such a tree, because all that match are wanted.
#[derive(Clone, Debug)]
pub struct Router<T> {
    methods: HashMap<Box<str>, MethodRoutes<T>>,
}

#[derive(Clone, Debug)]
struct MethodRoutes<T> {
    /// Routes without parameters, the usual case: one look-up. The paths are stored in the map
    /// itself: among a hundred thousand routes, one more memory access would cost as much as the
    /// rest of the look-up.
    exact: HashMap<SmolStr, T>,
    patterns: Patterns<T>,
    /// Subscriptions to more than one event.
    events: EventPatterns<T>,
}

/// Routes with parameters.
#[derive(Clone, Debug)]
struct Patterns<T> {
    /// Hashes texts that peers choose, so that peers cannot choose their hashes.
    hasher: RandomState,
    /// The shapes of the patterns with the same number of segments and first segment, best first.
    groups: Hashed<Vec<Shape>>,
    /// The patterns by shape and literal segments; two patterns rarely have the same hash.
    routes: Hashed<Vec<Pattern<T>>>,
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    /// A bit per segment, the first one highest; set for a parameter. So the best shape is the
    /// lowest number.
    parameters: u64,
    /// How many patterns have this shape.
    patterns: usize,
}

#[derive(Clone, Debug)]
struct Pattern<T> {
    route: Route,
    value: T,
}

/// A map whose keys are hashes already.
type Hashed<T> = std::collections::HashMap<u64, T, BuildHasherDefault<PassThroughHasher>>;

#[derive(Clone, Copy, Debug, Default)]
struct PassThroughHasher(u64);

/// Why a route is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouterError {
    /// The route has parameters, and more than 64 segments.
    TooLong,
    /// Too many shapes of similar routes are registered.
    TooManyShapes,
}

/// A route that was found.
#[derive(Debug, PartialEq, Eq)]
pub struct RouteMatch<'r, 'p, T> {
    /// The value of the route.
    pub value: &'r T,
    /// The segments that parameters captured, in order, still escaped.
    pub captured: Vec<&'p str>,
}

impl RouterError {
    /// The reason, for the author of the service.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::TooLong => "a route with parameters has at most 64 segments",
            Self::TooManyShapes => {
                "16 routes with the same number of segments and the same first segment already have parameters at other positions"
            }
        }
    }

    /// Converts it into an error about a route.
    pub fn into_error(self, route: &Route) -> RouteError {
        RouteError { text: route.as_str().chars().take(60).collect(), reason: self.reason() }
    }
}

impl<T> Router<T> {
    /// The value of a route, made by `new` if there is none. The names of parameters make no
    /// difference: `GET/a/{x}` and `GET/a/{y}` are one route.
    ///
    /// # Errors
    /// When the route is new and would make look-ups too slow.
    pub fn entry(&mut self, route: &Route, new: impl FnOnce() -> T) -> Result<&mut T, RouterError> {
        if !route.is_pattern() {
            // There are few methods: the text is allocated once for each.
            if !self.methods.contains_key(route.method()) {
                self.methods.insert(route.method().into(), MethodRoutes::default());
            }
            let method = self.methods.get_mut(route.method()).expect("the method was inserted above");
            if route.is_event_pattern() {
                return Ok(method.events.entry(route.path(), new));
            }
            return Ok(method.exact.entry(SmolStr::new(route.path())).or_insert_with(new));
        }
        match self.methods.get_mut(route.method()) {
            Some(method) => method.patterns.check(route)?,
            // A refused route must leave nothing behind.
            None => {
                Patterns::<T>::default().check(route)?;
                self.methods.insert(route.method().into(), MethodRoutes::default());
            }
        }
        let method = self.methods.get_mut(route.method()).expect("the method was found or inserted above");
        Ok(method.patterns.entry(route, new))
    }

    /// The value of a route.
    pub fn get_mut(&mut self, route: &Route) -> Option<&mut T> {
        let method = self.methods.get_mut(route.method())?;
        if route.is_event_pattern() {
            return method.events.get_mut(route.path());
        }
        if route.is_pattern() { method.patterns.get_mut(route) } else { method.exact.get_mut(route.path()) }
    }

    /// The value of a route.
    pub fn get(&self, route: &Route) -> Option<&T> {
        let method = self.methods.get(route.method())?;
        if route.is_event_pattern() {
            return method.events.get(route.path());
        }
        if route.is_pattern() { method.patterns.get(route) } else { method.exact.get(route.path()) }
    }

    /// Whether a route has a value.
    pub fn has(&self, route: &Route) -> bool {
        self.get(route).is_some()
    }

    /// Removes a route, and leaves nothing behind: names come and go for years. Returns whether
    /// routes that were [refused](RouterError) may be accepted now.
    pub fn remove(&mut self, route: &Route) -> bool {
        let Some(method) = self.methods.get_mut(route.method()) else { return false };
        let makes_room = if route.is_pattern() {
            method.patterns.remove(route)
        } else if route.is_event_pattern() {
            method.events.remove(route.path());
            false
        } else {
            method.exact.remove(route.path());
            false
        };
        if method.exact.is_empty() && method.patterns.routes.is_empty() && method.events.is_empty() {
            self.methods.remove(route.method());
        }
        makes_room
    }

    /// The route that a method and path belong to. Of several subscriptions to an event, it is the
    /// most specific one.
    pub fn find<'p>(&self, method: &str, path: &'p str) -> Option<RouteMatch<'_, 'p, T>> {
        let method = self.methods.get(method)?;
        if let Some(value) = method.exact.get(path) {
            return Some(RouteMatch { value, captured: Vec::new() });
        }
        if !method.events.is_empty() {
            let mut best = None;
            method.events.find_all(path, |value| {
                best = Some(value);
                false
            });
            return best.map(|value| RouteMatch { value, captured: Vec::new() });
        }
        if method.patterns.routes.is_empty() {
            return None;
        }
        method.patterns.find(path, &mut 0)
    }
}

impl<T> Router<T> {
    /// Passes all subscriptions to the event with this path to `found`, the most specific first:
    /// its name, and then the patterns to which it belongs.
    pub fn subscriptions<'a>(&'a self, path: &str, mut found: impl FnMut(&'a T)) {
        let Some(method) = self.methods.get(EVENT_METHOD) else { return };
        method.exact.get(path).into_iter().for_each(&mut found);
        if !method.events.is_empty() {
            method.events.find_all(path, |value| {
                found(value);
                true
            });
        }
    }
}

impl<T> Patterns<T> {
    /// Checks that a route that has no value may be added.
    fn check(&self, route: &Route) -> Result<(), RouterError> {
        if segments(route.path()).nth(MAX_SEGMENTS).is_some() {
            return Err(RouterError::TooLong);
        }
        let Some(shapes) = self.groups.get(&self.group(route)) else { return Ok(()) };
        let shape = shape(route);
        let is_known = shapes.iter().any(|known| known.parameters == shape);
        if is_known || shapes.len() < MAX_SHAPES { Ok(()) } else { Err(RouterError::TooManyShapes) }
    }

    fn entry(&mut self, route: &Route, new: impl FnOnce() -> T) -> &mut T {
        let (group, shape, key) = (self.group(route), shape(route), self.key(route));
        let same = self.routes.entry(key).or_default();
        let at = match same.iter().position(|pattern| pattern.route.is_same(route)) {
            Some(at) => at,
            None => {
                same.push(Pattern { route: route.clone(), value: new() });
                let shapes = self.groups.entry(group).or_default();
                match shapes.binary_search_by_key(&shape, |known| known.parameters) {
                    Ok(at) => shapes[at].patterns += 1,
                    Err(at) => shapes.insert(at, Shape { parameters: shape, patterns: 1 }),
                }
                same.len() - 1
            }
        };
        &mut same[at].value
    }

    fn get_mut(&mut self, route: &Route) -> Option<&mut T> {
        let key = self.key(route);
        let same = self.routes.get_mut(&key)?;
        same.iter_mut().find(|pattern| pattern.route.is_same(route)).map(|pattern| &mut pattern.value)
    }

    fn get(&self, route: &Route) -> Option<&T> {
        let same = self.routes.get(&self.key(route))?;
        same.iter().find(|pattern| pattern.route.is_same(route)).map(|pattern| &pattern.value)
    }

    /// Returns whether there is room for another shape.
    fn remove(&mut self, route: &Route) -> bool {
        let (group, shape, key) = (self.group(route), shape(route), self.key(route));
        let Some(same) = self.routes.get_mut(&key) else { return false };
        let Some(at) = same.iter().position(|pattern| pattern.route.is_same(route)) else { return false };
        same.swap_remove(at);
        if same.is_empty() {
            self.routes.remove(&key);
        }
        let Some(shapes) = self.groups.get_mut(&group) else { return false };
        let Ok(at) = shapes.binary_search_by_key(&shape, |known| known.parameters) else { return false };
        shapes[at].patterns -= 1;
        if shapes[at].patterns > 0 {
            return false;
        }
        shapes.remove(at);
        let was_full = shapes.len() == MAX_SHAPES - 1;
        if shapes.is_empty() {
            self.groups.remove(&group);
        }
        was_full
    }

    /// Adds the number of shapes that were tried to `tried`.
    fn find<'p>(&self, path: &'p str, tried: &mut usize) -> Option<RouteMatch<'_, 'p, T>> {
        let count = memchr::memchr_iter(b'/', path.as_bytes()).count();
        if count > MAX_SEGMENTS || !path.starts_with('/') {
            return None;
        }
        let first = segments(path).next().unwrap_or_default();
        // A literal is better than a parameter.
        let groups = [self.group_of(count, Some(first)), self.group_of(count, None)];
        let groups = groups.map(|group| self.groups.get(&group));
        if groups.iter().all(Option::is_none) {
            return None;
        }
        let (mut hashes, mut empty) = ([0; MAX_SEGMENTS], 0);
        for (at, segment) in segments(path).enumerate() {
            hashes[at] = self.literal(at, segment);
            if segment.is_empty() {
                empty |= bit(at);
            }
        }
        // A parameter does not match an empty segment.
        let shapes = groups.into_iter().flatten().flatten().filter(|shape| shape.parameters & empty == 0);
        for Shape { parameters, .. } in shapes {
            *tried += 1;
            let mut key = self.shape(count, *parameters);
            for (at, hash) in hashes.iter().enumerate().take(count) {
                if parameters & bit(at) == 0 {
                    key ^= hash;
                }
            }
            let Some(same) = self.routes.get(&key) else { continue };
            for Pattern { route, value } in same {
                if let Some(captured) = captured(route, path) {
                    return Some(RouteMatch { value, captured });
                }
            }
        }
        None
    }

    fn key(&self, route: &Route) -> u64 {
        let count = segments(route.path()).count();
        let literals = route.segments().enumerate().filter_map(|(at, segment)| match segment {
            Segment::Literal(literal) => Some(self.literal(at, literal)),
            Segment::Parameter(_) => None,
        });
        literals.fold(self.shape(count, shape(route)), |key, hash| key ^ hash)
    }

    fn group(&self, route: &Route) -> u64 {
        let first = match route.segments().next() {
            Some(Segment::Literal(literal)) => Some(literal),
            Some(Segment::Parameter(_)) | None => None,
        };
        self.group_of(segments(route.path()).count(), first)
    }

    fn group_of(&self, segments: usize, first: Option<&str>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_usize(segments);
        first.inspect(|first| hasher.write(first.as_bytes()));
        hasher.write_u8(first.is_some().into());
        hasher.finish()
    }

    fn literal(&self, at: usize, segment: &str) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(segment.as_bytes());
        hasher.write_usize(at);
        hasher.finish()
    }

    fn shape(&self, segments: usize, parameters: u64) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_usize(segments);
        hasher.write_u64(parameters);
        hasher.finish()
    }
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').skip(1)
}

fn bit(at: usize) -> u64 {
    1 << (MAX_SEGMENTS - 1 - at)
}

/// The segments that are parameters; those beyond the limit do not count.
fn shape(route: &Route) -> u64 {
    let segments = route.segments().take(MAX_SEGMENTS).enumerate();
    let parameters = segments.filter(|(_, segment)| matches!(segment, Segment::Parameter(_)));
    parameters.fold(0, |shape, (at, _)| shape | bit(at))
}

/// The segments of a path that the parameters of a route capture, if the path belongs to the route.
fn captured<'p>(route: &Route, path: &'p str) -> Option<Vec<&'p str>> {
    let mut captured = Vec::new();
    let mut path = segments(path);
    for segment in route.segments() {
        match (segment, path.next()?) {
            (Segment::Literal(literal), there) if literal != there => return None,
            (Segment::Literal(_), _) => {}
            (Segment::Parameter(_), there) => captured.push(there),
        }
    }
    path.next().is_none().then_some(captured)
}

impl Hasher for PassThroughHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _bytes: &[u8]) {
        debug_assert!(false, "only hashes are hashed");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl<T> Default for Router<T> {
    fn default() -> Self {
        Self { methods: HashMap::new() }
    }
}

impl<T> Default for MethodRoutes<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), patterns: Patterns::default(), events: EventPatterns::default() }
    }
}

impl<T> Default for Patterns<T> {
    fn default() -> Self {
        Self { hasher: RandomState::default(), groups: Hashed::default(), routes: Hashed::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router() -> Router<String> {
        let mut router = Router::default();
        for route in [
            "GET/",
            "GET/goods",
            "POST/goods",
            "GET/goods/{id}",
            "GET/goods/{id}/tags",
            "GET/goods/new/{kind}",
            "GET/{a}/{b}/{c}",
        ] {
            router.entry(&Route::parse(route).unwrap(), || route.to_owned()).unwrap();
        }
        router
    }

    #[track_caller]
    fn check(method: &str, path: &str, expected: Option<(&str, &[&str])>) {
        let router = router();
        let found = router.find(method, path);
        assert_eq!(found.as_ref().map(|m| (m.value.as_str(), &m.captured[..])), expected);
    }

    #[test]
    fn literal_segments_beat_parameters() {
        check("GET", "/", Some(("GET/", &[])));
        check("GET", "/goods", Some(("GET/goods", &[])));
        check("POST", "/goods", Some(("POST/goods", &[])));
        check("DELETE", "/goods", None);
        check("GET", "/goods/7", Some(("GET/goods/{id}", &["7"])));
        check("GET", "/goods/7/tags", Some(("GET/goods/{id}/tags", &["7"])));
        check("GET", "/goods/new/x", Some(("GET/goods/new/{kind}", &["x"])));
        check("GET", "/goods/new", Some(("GET/goods/{id}", &["new"])));
        check("GET", "/goods/7/x", Some(("GET/{a}/{b}/{c}", &["goods", "7", "x"])));
        check("GET", "/goods/", None);
        check("GET", "/goods//tags", None);
        check("GET", "goods", None);
        check("GET", "", None);
        check("GET", "/a/b/c/d", None);
        check("GET", "/가/나/다", Some(("GET/{a}/{b}/{c}", &["가", "나", "다"])));
    }

    #[test]
    fn names_of_parameters_make_no_difference() {
        let mut router = router();
        let same = Route::parse("GET/goods/{number}").unwrap();
        assert_eq!(router.entry(&same, || unreachable!("it is there")).unwrap(), "GET/goods/{id}");
    }

    #[test]
    fn an_event_has_its_name_and_all_patterns_that_match() {
        let mut router = Router::default();
        let names = ["EVENT/orders.created", "EVENT/orders.*", "EVENT/>", "EVENT/orders*", "GET/orders.*"];
        for name in names {
            router.entry(&Route::parse(name).unwrap(), || name).unwrap();
        }
        let check = |path, expected: &[&str]| {
            let mut all = Vec::new();
            router.subscriptions(path, |name| all.push(*name));
            assert_eq!(all, expected, "{path}");
            assert_eq!(router.find("EVENT", path).map(|found| *found.value), expected.first().copied(), "{path}");
        };
        check("/orders.created", &["EVENT/orders.created", "EVENT/orders.*", "EVENT/>"]);
        check("/orders.paid", &["EVENT/orders.*", "EVENT/>"]);
        check("/members", &["EVENT/>"]);
        check("/orders*", &["EVENT/orders*", "EVENT/>"]);
        assert!(router.find("GET", "/orders.paid").is_none(), "other methods have no patterns of events");
        for name in names {
            let route = Route::parse(name).unwrap();
            assert_eq!(router.get(&route), Some(&name));
            assert_eq!(router.get_mut(&route), Some(&mut { name }));
            router.remove(&route);
            assert!(!router.has(&route));
        }
        assert!(router.methods.is_empty());
    }

    #[test]
    fn a_removed_route_leaves_nothing_behind() {
        let mut router = router();
        let route = |text| Route::parse(text).unwrap();
        router.remove(&route("GET/goods/{id}"));
        assert_eq!(router.find("GET", "/goods/7"), None);
        assert_eq!(router.find("GET", "/goods/7/tags").map(|found| &**found.value), Some("GET/goods/{id}/tags"));
        assert_eq!(router.get_mut(&route("GET/goods/{x}/tags")).map(|value| &**value), Some("GET/goods/{id}/tags"));
        for gone in ["GET/goods/{id}", "GET/no", "GET/no/{x}", "PUT/goods", "POST/goods", "GET/", "GET/goods"] {
            router.remove(&route(gone));
            assert_eq!(router.get_mut(&route(gone)), None);
        }
        for last in ["GET/goods/{id}/tags", "GET/goods/new/{kind}", "GET/{a}/{b}/{c}"] {
            router.remove(&route(last));
        }
        assert!(router.methods.is_empty());
    }

    /// The result by the rule, found by comparing all routes.
    fn naive<'r>(routes: &'r [Route], method: &str, path: &str) -> Option<&'r Route> {
        let is_literal = |route: &Route| -> Vec<bool> {
            route.segments().map(|segment| matches!(segment, Segment::Literal(_))).collect()
        };
        let fits = |route: &&Route| {
            let taken = captured(route, path);
            route.method() == method && taken.is_some_and(|taken| taken.iter().all(|segment| !segment.is_empty()))
        };
        // Names of parameters make no difference: the first one stays.
        routes.iter().rev().filter(fits).max_by_key(|route| is_literal(route))
    }

    #[test]
    fn look_ups_follow_the_rule() {
        let mut refused = 0;
        for seed in 0..400 {
            let rng = &mut fastrand::Rng::with_seed(seed);
            let most_segments = rng.usize(1..8);
            let text = |rng: &mut fastrand::Rng, parameters: bool| {
                let mut text = String::new();
                // Often the same number of segments, so that there are too many shapes.
                let least = if seed % 4 == 0 { most_segments } else { 1 };
                for at in 0..rng.usize(least..=most_segments) {
                    let segment = match rng.u8(0..if parameters { 8 } else { 4 }) {
                        0 => "a".to_owned(),
                        1 => "b".to_owned(),
                        2 => "ab".to_owned(),
                        3 => String::new(),
                        _ => format!("{{p{at}}}"),
                    };
                    text.push('/');
                    text.push_str(&segment);
                }
                text
            };
            let (mut router, mut routes) = (Router::default(), Vec::<Route>::new());
            for _ in 0..rng.usize(1..200) {
                let method = ["GET", "PUT"][rng.usize(0..2)];
                let route = Route::parse(&format!("{method}{}", text(rng, true))).unwrap();
                if rng.u8(0..5) == 0 && !routes.is_empty() {
                    let gone = routes.swap_remove(rng.usize(0..routes.len()));
                    router.remove(&gone);
                    assert!(!router.has(&gone));
                }
                match router.entry(&route, || route.clone()) {
                    Ok(there) if *there == route && !routes.contains(&route) => routes.push(route),
                    Ok(_) => {}
                    Err(why) => {
                        assert_eq!((why, most_segments > 5), (RouterError::TooManyShapes, true), "{route}");
                        assert!(!router.has(&route));
                        refused += 1;
                    }
                }
            }
            for _ in 0..200 {
                let (method, path) = (["GET", "PUT", "POST"][rng.usize(0..3)], text(rng, false));
                let found = router.find(method, &path).map(|found| found.value.clone());
                assert_eq!(found.as_ref(), naive(&routes, method, &path), "seed {seed}: {method}{path}");
            }
            for route in &routes {
                router.remove(route);
            }
            assert!(router.methods.is_empty());
        }
        assert!(refused > 0);
    }

    /// All routes whose segments are `x` or a parameter.
    fn all(segments: usize) -> impl Iterator<Item = Route> {
        (0..1_u32 << segments).map(move |bits| {
            let segment = |at: usize| if bits >> at & 1 == 0 { "/x".to_owned() } else { format!("/{{p{at}}}") };
            Route::parse(&format!("GET{}", (0..segments).map(segment).collect::<String>())).unwrap()
        })
    }

    #[test]
    fn a_look_up_tries_a_bounded_number_of_shapes() {
        for segments in 1..=15 {
            let mut router = Router::default();
            let taken = all(segments).filter(|route| router.entry(route, || ()).is_ok()).count();
            let patterns = |most: usize| (1 << (segments - 1)).min(most);
            assert!(taken > patterns(MAX_SHAPES), "{segments}");
            for path in ["/x".repeat(segments), "/y".repeat(segments), format!("{}/y", "/x".repeat(segments - 1))] {
                let mut tried = 0;
                let method = &router.methods["GET"];
                let found = method.patterns.find(&path, &mut tried);
                assert!(segments > 5 || method.exact.contains_key(&*path) || found.is_some(), "{path}");
                assert!(tried <= 2 * MAX_SHAPES, "{path}: {tried}");
                let mut tried = 0;
                assert!(method.patterns.find(&format!("{path}/miss"), &mut tried).is_none());
                assert_eq!(tried, 0, "no pattern has this many segments");
            }
        }
    }

    #[test]
    fn a_refused_route_is_accepted_when_there_is_room() {
        let mut router = Router::default();
        let (taken, refused): (Vec<_>, Vec<_>) = all(6).partition(|route| router.entry(route, || ()).is_ok());
        let (refused, shape_of) = (&refused[0], |route: &Route| shape(route));
        let is_like = |route: &&Route| route.segments().next() == refused.segments().next();
        let like = taken.iter().filter(|route| route.is_pattern()).find(is_like).unwrap();
        assert_ne!(shape_of(like), shape_of(refused));
        assert!(router.remove(like), "there is room now");
        assert!(router.entry(refused, || ()).is_ok());
        assert_eq!(router.entry(like, || ()), Err(RouterError::TooManyShapes));
        let long = |segments: usize| Route::parse(&format!("GET/{{x}}{}", "/x".repeat(segments - 1))).unwrap();
        assert!(router.entry(&long(MAX_SEGMENTS), || ()).is_ok());
        assert_eq!(router.entry(&long(MAX_SEGMENTS + 1), || ()), Err(RouterError::TooLong));
        assert!(router.find("GET", &format!("/1{}", "/x".repeat(MAX_SEGMENTS - 1))).is_some());
        assert!(router.find("GET", &format!("/1{}", "/x".repeat(MAX_SEGMENTS))).is_none());
    }
}
