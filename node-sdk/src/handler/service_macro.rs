//! Describes a service once, as a trait, from which both sides are made.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use protocol::{Route, Segment};
use serde::Serialize;
use serde_json::Value;

use crate::error::CallError;

/// Characters that a path does not escape: RFC 3986, 2.3.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Describes a service as a trait to implement, with a typed client.
///
/// Each method has its route and named arguments, which are sent as the members of `params`; the
/// parameters of the route stand in the path. Arguments are owned, and `Serialize` and
/// `Deserialize`. Settings of a route, such as [`to_the_end`](crate::NodeBuilder::to_the_end), are
/// behind it, as they are in the builder. The trait's `offer` adds its routes to a node. The
/// client's methods fail as [`Peers::call`](crate::Peers::call) does, and have its defaults. Calls
/// with another timeout or with a sticky key, and streams, use the same urls without the client:
/// nothing on the wire shows how a service was written.
///
/// ```
/// use node_sdk::{CallError, Node, Peers, ServiceError};
///
/// node_sdk::service! {
///     /// What can be bought.
///     pub trait Goods, client GoodsClient {
///         /// One of them. Clients of a gateway may ask for it, too.
///         "GET/goods/{id}".public() => fn find(id: u64) -> String;
///         "POST/goods".max_concurrency(10) => fn add(name: String, price: u32) -> u64;
///         "DELETE/goods/{id}".to_the_end() => fn remove(id: u64) -> ();
///     }
/// }
///
/// struct Shelf;
///
/// impl Goods for Shelf {
///     async fn find(&self, id: u64) -> Result<String, ServiceError> {
///         Ok(format!("good {id}"))
///     }
///
///     async fn add(&self, name: String, price: u32) -> Result<u64, ServiceError> {
///         Ok(name.len() as u64 + u64::from(price))
///     }
///
///     async fn remove(&self, _id: u64) -> Result<(), ServiceError> {
///         Ok(())
///     }
/// }
///
/// let node = Shelf.offer(Node::builder("goods"));
///
/// async fn call(peers: &Peers) -> Result<String, CallError> {
///     GoodsClient(peers).find(7).await
/// }
/// ```
#[macro_export]
macro_rules! service {
    (
        $(#[$about:meta])*
        $visible:vis trait $Service:ident, client $Client:ident {
            $(
                $(#[$about_method:meta])*
                $route:literal $(.$setting:ident($($value:tt)*))*
                    => fn $method:ident($($argument:ident: $type:ty),* $(,)?) -> $result:ty;
            )*
        }
    ) => {
        $(#[$about])*
        $visible trait $Service: Sized + Send + Sync + 'static {
            $(
                $(#[$about_method])*
                fn $method(
                    &self
                    $(, $argument: $type)*
                ) -> impl ::core::future::Future<Output = ::core::result::Result<$result, $crate::ServiceError>> + Send;
            )*

            /// Adds its routes to a node.
            fn offer(self, node: $crate::NodeBuilder) -> $crate::NodeBuilder {
                let service = ::std::sync::Arc::new(self);
                $(
                    let node = {
                        #[derive($crate::private::Deserialize)]
                        #[serde(crate = "node_sdk::private::serde", expecting = "struct Arguments")]
                        struct ServerArguments {
                            $($argument: $type,)*
                        }
                        let service = ::std::sync::Arc::clone(&service);
                        node.route($route, move |arguments: $crate::Params<ServerArguments>| {
                            let service = ::std::sync::Arc::clone(&service);
                            async move {
                                let $crate::Params(ServerArguments { $($argument,)* }) = arguments;
                                service.$method($($argument),*).await
                            }
                        })
                        $(.$setting($($value)*))*
                    };
                )*
                node
            }
        }

        /// Calls
        #[doc = concat!("[`", stringify!($Service), "`].")]
        #[derive(Clone, Copy, Debug)]
        $visible struct $Client<'a>(
            /// The peers that offer it.
            pub &'a $crate::Peers,
        );

        impl $Client<'_> {
            $(
                $(#[$about_method])*
                $visible async fn $method(
                    &self
                    $(, $argument: $type)*
                ) -> ::core::result::Result<$result, $crate::CallError> {
                    #[derive($crate::private::Serialize)]
                    #[serde(crate = "node_sdk::private::serde")]
                    struct ClientArguments {
                        $($argument: $type,)*
                    }
                    let arguments = ClientArguments { $($argument,)* };
                    self.0.call(&$crate::private::fill($route, &arguments)?, &arguments).await
                }
            )*
        }
    };
}

/// The url of a call: the route, with arguments in place of its parameters.
pub fn fill(route: &str, arguments: &impl Serialize) -> Result<String, CallError> {
    let no_json = |source| CallError::Params { url: route.to_owned(), source };
    // No node can offer a url that is not a route, so the call fails with this error.
    let Some(parsed) = Route::parse(route).ok().filter(Route::is_pattern) else { return Ok(route.to_owned()) };
    let arguments = serde_json::to_value(arguments).map_err(no_json)?;
    let mut url = parsed.method().to_owned();
    for segment in parsed.segments() {
        url.push('/');
        match segment {
            Segment::Literal(text) => url.push_str(text),
            Segment::Parameter(name) => match arguments.get(name) {
                Some(Value::String(text)) => url.extend(utf8_percent_encode(text, ESCAPED)),
                Some(value) => url.extend(utf8_percent_encode(&value.to_string(), ESCAPED)),
                None => return Err(CallError::NoRoute { url: format!("{route} without {name}") }),
            },
        }
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arguments_stand_where_the_route_names_them() {
        let arguments = json!({ "id": 7, "name": "한 b/c", "ok": true });
        for (route, url) in [
            ("GET/goods", "GET/goods"),
            ("GET/goods/{id}", "GET/goods/7"),
            ("GET/{ok}/{name}/x", "GET/true/%ED%95%9C%20b%2Fc/x"),
            ("no route", "no route"),
        ] {
            assert_eq!(fill(route, &arguments).unwrap(), url, "{route}");
        }
        assert!(matches!(fill("GET/{unknown}", &arguments), Err(CallError::NoRoute { .. })));
    }
}
