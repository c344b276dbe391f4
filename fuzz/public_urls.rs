//! Which urls of a registration are public, by the words of docs/PROTOCOL.md alone: it shares no
//! code with the reader of `$.routes`, so that the target `legacy_list` can compare the two.

use std::collections::BTreeMap;

use protocol::Route;
use serde::de::IgnoredAny;
use serde_json::from_str;
use serde_json::value::RawValue;

type Members<'a> = BTreeMap<String, &'a RawValue>;

/// An item of `$.routes`.
#[derive(serde::Deserialize)]
struct Item {
    at: Vec<u16>,
    public: Option<Box<RawValue>>,
    /// Says nothing about that, but spoils the item if it stands there twice.
    #[serde(rename = "headers")]
    _headers: Option<IgnoredAny>,
}

/// The public urls of a sound registration, in their order; all of them if it cannot say.
pub(crate) fn public_urls(params: &str) -> Vec<String> {
    let params: Members<'_> = from_str(params).expect("a registration is an object");
    let urls: Option<Vec<String>> = params.get("urls").map(|urls| from_str(urls.get()).expect("urls are texts"));
    let urls = urls.unwrap_or_default();
    let stated = params.get("$").and_then(|meta| from_str::<Members<'_>>(meta.get()).ok()?.remove("routes"));
    let Some(stated) = stated else { return urls };
    let items: Vec<&RawValue> = from_str(stated.get()).unwrap_or_default();
    let items = items.iter().map(|item| item.get()).filter(|item| item.starts_with('{'));
    let items: Vec<Item> = items.filter_map(|item| from_str(item).ok()).collect();
    let is_public = |place: usize| {
        let item = items.iter().find(|item| item.at.iter().any(|at| usize::from(*at) == place));
        item.and_then(|item| item.public.as_ref()).is_some_and(|public| public.get() == "true")
    };
    let is_shown = |url: &String| {
        let mut places = urls.iter().enumerate().filter(|(_, other)| is_same(url, other));
        !url.starts_with("EVENT/") && places.all(|(place, _)| is_public(place))
    };
    urls.iter().filter(|url| is_shown(url)).cloned().collect()
}

/// Whether both are one route, or one text that is not a route.
fn is_same(one: &str, other: &str) -> bool {
    match (Route::parse(one), Route::parse(other)) {
        (Ok(one), Ok(other)) => one.is_same(&other),
        _ => one == other,
    }
}
