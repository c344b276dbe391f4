//! Which of many routes a method and path belong to, without I/O.

use foldhash::{HashMap, HashMapExt};
use protocol::{Route, Segment};
use smol_str::SmolStr;

/// A value per route. A path without parameters beats one with, segment by segment from the left.
#[derive(Clone, Debug)]
pub(crate) struct Router<T> {
    methods: HashMap<Box<str>, Tree<T>>,
}

#[derive(Clone, Debug)]
struct Tree<T> {
    /// Routes without parameters, the usual case: one look-up. Among a hundred thousand of them each text that stands elsewhere costs
    /// as much as the rest.
    exact: HashMap<SmolStr, T>,
    patterns: Branch<T>,
}

#[derive(Clone, Debug)]
struct Branch<T> {
    literals: HashMap<Box<str>, Self>,
    parameter: Option<Box<Self>>,
    value: Option<T>,
}

/// A route that was found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Match<'r, 'p, T> {
    /// What stands under the route.
    pub(crate) value: &'r T,
    /// The segments that parameters took, in order, as they stand in the path.
    pub(crate) captured: Vec<&'p str>,
}

impl<T> Router<T> {
    /// The value under a route, made by `new` if there is none. Names of parameters make no difference: `GET/a/{x}` and
    /// `GET/a/{y}` are one route.
    pub(crate) fn entry(&mut self, route: &Route, new: impl FnOnce() -> T) -> &mut T {
        // There are few methods, and a text is made for each of them only once.
        if !self.methods.contains_key(route.method()) {
            self.methods.insert(route.method().into(), Tree::default());
        }
        let tree = self.methods.get_mut(route.method()).expect("it was put there");
        if !route.is_pattern() {
            return tree.exact.entry(SmolStr::new(route.path())).or_insert_with(new);
        }
        let mut branch = &mut tree.patterns;
        for segment in route.segments() {
            branch = match segment {
                Segment::Literal(literal) => branch.literals.entry(literal.into()).or_default(),
                Segment::Parameter(_) => branch.parameter.get_or_insert_default(),
            };
        }
        branch.value.get_or_insert_with(new)
    }

    /// The value under a route.
    pub(crate) fn get_mut(&mut self, route: &Route) -> Option<&mut T> {
        let tree = self.methods.get_mut(route.method())?;
        if !route.is_pattern() {
            return tree.exact.get_mut(route.path());
        }
        let mut branch = &mut tree.patterns;
        for segment in route.segments() {
            branch = match segment {
                Segment::Literal(literal) => branch.literals.get_mut(literal)?,
                Segment::Parameter(_) => branch.parameter.as_deref_mut()?,
            };
        }
        branch.value.as_mut()
    }

    /// Removes what is under a route, and leaves nothing behind: names come and go for years.
    pub(crate) fn remove(&mut self, route: &Route) {
        let Some(tree) = self.methods.get_mut(route.method()) else { return };
        if route.is_pattern() {
            tree.patterns.remove(&mut route.segments());
        } else {
            tree.exact.remove(route.path());
        }
        if tree.exact.is_empty() && tree.patterns.is_vacant() {
            self.methods.remove(route.method());
        }
    }

    /// The route that a method and path belong to.
    pub(crate) fn find<'p>(&self, method: &str, path: &'p str) -> Option<Match<'_, 'p, T>> {
        let tree = self.methods.get(method)?;
        if let Some(value) = tree.exact.get(path) {
            return Some(Match { value, captured: Vec::new() });
        }
        if tree.patterns.is_empty() {
            return None;
        }
        let mut captured = Vec::new();
        let value = tree.patterns.find(path.strip_prefix('/')?, &mut captured)?;
        Some(Match { value, captured })
    }
}

impl<T> Branch<T> {
    fn is_empty(&self) -> bool {
        self.literals.is_empty() && self.parameter.is_none()
    }

    fn is_vacant(&self) -> bool {
        self.is_empty() && self.value.is_none()
    }

    fn remove<'s>(&mut self, segments: &mut impl Iterator<Item = Segment<'s>>) {
        match segments.next() {
            None => self.value = None,
            Some(Segment::Literal(literal)) => {
                let Some(branch) = self.literals.get_mut(literal) else { return };
                branch.remove(segments);
                if branch.is_vacant() {
                    self.literals.remove(literal);
                }
            }
            Some(Segment::Parameter(_)) => {
                let Some(branch) = self.parameter.as_deref_mut() else { return };
                branch.remove(segments);
                if branch.is_vacant() {
                    self.parameter = None;
                }
            }
        }
    }

    /// As deep as the deepest route, which its length bounds; a path cannot make it deeper.
    fn find<'r, 'p>(&'r self, rest: &'p str, captured: &mut Vec<&'p str>) -> Option<&'r T> {
        let (segment, rest) = match rest.split_once('/') {
            Some((segment, rest)) => (segment, Some(rest)),
            None => (rest, None),
        };
        let descend = |branch: &'r Self, captured: &mut Vec<&'p str>| match rest {
            Some(rest) => branch.find(rest, captured),
            None => branch.value.as_ref(),
        };
        if let Some(found) = self.literals.get(segment).and_then(|branch| descend(branch, captured)) {
            return Some(found);
        }
        let branch = self.parameter.as_deref().filter(|_| !segment.is_empty())?;
        captured.push(segment);
        let found = descend(branch, captured);
        if found.is_none() {
            captured.pop();
        }
        found
    }
}

impl<T> Default for Router<T> {
    fn default() -> Self {
        Self { methods: HashMap::new() }
    }
}

impl<T> Default for Tree<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), patterns: Branch::default() }
    }
}

impl<T> Default for Branch<T> {
    fn default() -> Self {
        Self { literals: HashMap::new(), parameter: None, value: None }
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
            router.entry(&Route::parse(route).unwrap(), || route.to_owned());
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
        assert_eq!(router.entry(&same, || unreachable!("it is there")), "GET/goods/{id}");
    }
    #[test]
    fn what_is_removed_leaves_nothing_behind() {
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
}
