//! Several entries at one address: they are called as one node.

use std::collections::HashMap;
use std::sync::Arc;

use crate::{Node, Route, RouteAdvert};

/// The node to call at an address, given the entries there, the oldest first. Also returns whether
/// the entries are of several instances, so that it is not known which of them listens.
///
/// The newest entry decides, because an older node may have gone unnoticed. It gets the routes of
/// all. Where they state different things of a route, it is not public: any of them may answer, and
/// none can open what is internal to another. If the Distributor has seen a node at the address,
/// entries of nodes that only advertise the address are left out.
pub(super) fn node_of<'n>(nodes: impl Iterator<Item = &'n Arc<Node>> + Clone) -> Option<(Arc<Node>, bool)> {
    let is_seen = nodes.clone().any(|node| !advertises(node));
    let nodes = nodes.filter(|node| !is_seen || !advertises(node));
    let newest = nodes.clone().last()?;
    let is_shared = nodes.clone().any(|node| instance_of(node) != instance_of(newest));
    let mut node = Arc::clone(newest);
    if nodes.clone().nth(1).is_some() {
        let node = Arc::make_mut(&mut node);
        (node.routes, node.route_adverts) = merge_routes(nodes).into_iter().unzip();
        if node.route_adverts.iter().all(Option::is_none) {
            node.route_adverts.clear();
        }
    }
    Some((node, is_shared))
}

/// The routes of all nodes, each once, with the strictest statement of those that offer it.
fn merge_routes<'n>(nodes: impl Iterator<Item = &'n Arc<Node>>) -> Vec<(Route, Option<RouteAdvert>)> {
    let (mut merged, mut positions) = (Vec::<(Route, Option<RouteAdvert>)>::new(), HashMap::new());
    for (route, advert) in nodes.flat_map(|node| node.stated_routes()) {
        let position = *positions.entry(route).or_insert(merged.len());
        match merged.get_mut(position) {
            Some((_, earlier)) => *earlier = stricter(earlier.take(), advert),
            None => merged.push((route.clone(), advert.cloned())),
        }
    }
    merged
}

/// The stricter statement, or the newer of two that are alike. An internal route is stricter than
/// one of which nothing is stated, and that than a public one.
fn stricter(earlier: Option<RouteAdvert>, newer: Option<&RouteAdvert>) -> Option<RouteAdvert> {
    let openness = |advert: Option<&RouteAdvert>| advert.map_or(1, |advert| if advert.public { 2 } else { 0 });
    if openness(earlier.as_ref()) < openness(newer) { earlier } else { newer.cloned() }
}

pub(super) fn instance_of(node: &Node) -> Option<&str> {
    node.advert.as_ref()?.id.as_deref()
}

/// Whether the node is listed where it says, and not where it was seen.
fn advertises(node: &Node) -> bool {
    node.advert.as_ref().is_some_and(|advert| advert.advertise.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, meta: &str, url: &str) -> Arc<Node> {
        let entry = format!(r#"{{"port":1,"name":"{name}","urls":["{url}"],"host":"::1"{meta}}}"#);
        Arc::new(Node::from_entry(&entry).unwrap())
    }

    /// The nodes, the oldest first; then the name of the one that is called, its routes, and
    /// whether several instances are there.
    #[track_caller]
    fn check(nodes: &[Arc<Node>], name: &str, routes: &[&str], is_shared: bool) {
        let (node, shared) = node_of(nodes.iter()).unwrap();
        let seen: Vec<_> = node.routes.iter().map(|route| route.as_str()).collect();
        assert_eq!((&*node.name, seen.as_slice(), shared), (name, routes, is_shared));
    }

    #[test]
    fn gu13_the_newest_speaks_for_an_address() {
        let old = node("old", "", "GET/old");
        let first = node("first", r#","$":{"id":"1"}"#, "GET/a");
        let second = node("second", r#","$":{"id":"2"}"#, "GET/b");
        assert!(node_of(std::iter::empty()).is_none());
        check(std::slice::from_ref(&first), "first", &["GET/a"], false);
        check(&[first.clone(), first.clone()], "first", &["GET/a"], false);
        check(&[first.clone(), second.clone()], "second", &["GET/a", "GET/b"], true);
        check(&[old.clone(), second.clone()], "second", &["GET/old", "GET/b"], true);
        check(&[old.clone(), old.clone()], "old", &["GET/old"], false);
    }

    #[test]
    fn gu13_a_route_is_public_if_all_that_offer_it_at_one_address_say_so() {
        #[track_caller]
        fn check(metas: &[&str], expected: Option<bool>) {
            let nodes: Vec<_> =
                metas.iter().map(|meta| node("a", meta, "GET/a")).chain([node("b", "", "GET/b")]).collect();
            let (node, _) = node_of(nodes.iter()).unwrap();
            let seen: Vec<_> = node.stated_routes().map(|(_, advert)| advert.map(|advert| advert.public)).collect();
            assert_eq!(seen, [expected, None]);
        }
        let (public, internal) = (r#","$":{"routes":[{"at":[0],"public":true}]}"#, r#","$":{"routes":[]}"#);
        check(&[""], None);
        check(&[public], Some(true));
        check(&[public, public], Some(true));
        for (one, other, expected) in [(internal, public, Some(false)), (internal, "", Some(false)), (public, "", None)]
        {
            check(&[one, other], expected);
            check(&[other, one], expected);
        }
    }

    #[test]
    fn a3_a_node_that_advertises_an_address_does_not_speak_for_the_one_that_is_there() {
        let seen = node("seen", r#","$":{"id":"1"}"#, "GET/a");
        let claims = node("claims", r#","$":{"id":"2","draining":true,"advertise":"[::1]:1"}"#, "GET/b");
        check(&[seen.clone(), claims.clone()], "seen", &["GET/a"], false);
        check(&[claims.clone(), seen.clone()], "seen", &["GET/a"], false);
        check(std::slice::from_ref(&claims), "claims", &["GET/b"], false);
    }
}
