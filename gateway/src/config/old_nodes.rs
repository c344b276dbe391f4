//! Which routes are public, if their nodes cannot say.

use net::{SettingValue, ValueError, ValueKind};
use node_sdk::gateway::UnstatedRoutes;
use protocol::Route;

/// Maximum number of routes of the list: more than the services of one mesh have that cannot say.
const MAX_ROUTES: usize = 1000;

/// Which routes are public, if their nodes cannot say. Such nodes are of version 1, or of version 2
/// from before routes could be internal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldNodesPublic(pub UnstatedRoutes);

impl SettingValue for OldNodesPublic {
    const KIND: ValueKind = ValueKind::SwitchOrList;
    const UNIT: &'static str = "true|false|ROUTES";
    const EXAMPLE: &'static str = "GET/goods";
    type Rule = ();

    fn read(text: &str, rule: Option<&()>) -> Result<Self, String> {
        Self::read_items(&[text], rule).map_err(|error| error.message)
    }

    fn read_items(items: &[&str], _rule: Option<&()>) -> Result<Self, ValueError> {
        let wrong = |item, message| Err(ValueError { item, message });
        match items {
            [] => return wrong(0, "write false if no route is public".to_owned()),
            [one] if !one.contains('/') => {
                return match <bool as SettingValue>::read(one, None) {
                    Ok(true) => Ok(Self(UnstatedRoutes::Public)),
                    Ok(false) => Ok(Self(UnstatedRoutes::Internal)),
                    Err(_) => wrong(0, "write true, false, or a list of routes such as [\"GET/goods\"]".to_owned()),
                };
            }
            _ if items.len() > MAX_ROUTES => return wrong(0, format!("write at most {MAX_ROUTES} routes")),
            _ => {}
        }
        let mut routes = Vec::new();
        for (item, text) in items.iter().enumerate() {
            match Route::parse(text) {
                Ok(route) if route.foreign_pattern().is_none() => routes.push(route),
                Ok(_) | Err(_) => return wrong(item, "write a route such as GET/goods or GET/goods/{id}".to_owned()),
            }
        }
        Ok(Self(UnstatedRoutes::Only(routes)))
    }

    fn show(&self) -> Option<String> {
        Some(match &self.0 {
            UnstatedRoutes::Public => "true".to_owned(),
            UnstatedRoutes::Internal => "false".to_owned(),
            UnstatedRoutes::Only(routes) => routes.iter().map(Route::as_str).collect::<Vec<_>>().join(","),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value as it is shown, or the mistake and its item.
    #[track_caller]
    fn check(items: &[&str], expected: Result<&str, (usize, &str)>) {
        let read = OldNodesPublic::read_items(items, None);
        let shown = read.as_ref().map(|value| value.show().unwrap());
        match expected {
            Ok(text) => assert_eq!(shown.as_deref(), Ok(text), "{items:?}"),
            Err((item, words)) => {
                let error = read.unwrap_err();
                assert!(error.item == item && error.message.contains(words), "{items:?}: {error:?}");
            }
        }
    }

    #[test]
    fn old_nodes_are_public_internal_or_listed() {
        check(&["true"], Ok("true"));
        check(&["off"], Ok("false"));
        check(&["GET/goods"], Ok("GET/goods"));
        check(&["GET/goods", "POST/goods/{id}"], Ok("GET/goods,POST/goods/{id}"));
        check(&[], Err((0, "write false")));
        check(&["maybe"], Err((0, "write true, false, or a list")));
        check(&["GET/goods", "true"], Err((1, "write a route")));
        check(&["GET/goods", "GET/goods/:id"], Err((1, "write a route")));
        check(&["/goods"], Err((0, "write a route")));
        check(&vec!["GET/goods"; MAX_ROUTES], Ok(&vec!["GET/goods"; MAX_ROUTES].join(",")));
        check(&vec!["GET/goods"; MAX_ROUTES + 1], Err((0, "at most 1000 routes")));
    }
}
