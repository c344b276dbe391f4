//! The attributes, with their docs: in the crate that makes them, no example could be compiled.

/// Checks that a function is a handler, and names a mistake at its place.
///
/// A function is a handler without this attribute, and with it nothing else is compiled. But what
/// the compiler says of a mistake stands at `.route(…)`, and does not say which argument is wrong.
/// With the attribute, the error stands at the argument, the result or the line at fault.
///
/// | mistake | what to do |
/// |---|---|
/// | the function is not `async` | write `async fn` |
/// | it has a `self` | take shared values as `State<T>` |
/// | it is generic, or an argument is `impl Trait` | name the types |
/// | an argument is borrowed | take a type that owns its value |
/// | an argument is not [`FromCall`](crate::FromCall) | take `Params<T>`, `State<T>`, … |
/// | two arguments take the body, or the parts of the caller | take one of them |
/// | `Next` in a function that is not a layer | return `Outcome`, or leave `Next` out |
/// | there are more than eight arguments | put some of them into a type that is `FromCall` |
/// | it does not return a `Result` | return `Result<T, E>` |
/// | the value of the result has no JSON form | derive `Serialize` |
/// | the error is not one of a service | write `From<E> for ServiceError` |
/// | something that is not `Send` is kept over an `.await` | drop it before |
///
/// ```
/// use node_sdk::{Node, Path, ServiceError, handler};
///
/// #[handler]
/// async fn find(Path(id): Path<u64>) -> Result<String, ServiceError> {
///     Ok(format!("good {id}"))
/// }
///
/// let node = Node::builder("goods").route("GET/goods/{id}", find);
/// ```
pub use node_sdk_macros::handler;

/// Makes a trait a service: nodes implement it, and callers have a client of it.
///
/// Each method has a route, and its settings as they stand behind a route in the builder. Its
/// arguments are what callers send: those that the route names stand in the path, and the others
/// are members of `params`. The method returns `Result<T, E>`.
///
/// ```
/// use node_sdk::{CallError, Caller, Created, Node, Peers};
/// use node_sdk::{Refusal, ServiceCallError, ServiceError};
///
/// #[derive(Debug, PartialEq, Refusal)]
/// pub enum GoodsError {
///     #[refusal(404, "no_good", "there is no such good")]
///     NoGood,
/// }
///
/// /// What can be bought.
/// #[node_sdk::service]
/// pub trait Goods {
///     /// One of them. Clients of a gateway may ask for it, too.
///     #[route("GET/goods/{id}", public)]
///     async fn find(&self, id: u64) -> Result<String, GoodsError>;
///
///     #[route("GET/goods")]
///     async fn list(&self, #[default(20)] limit: usize) -> Result<Vec<String>, ServiceError>;
///
///     #[route("POST/goods", max_concurrency(10))]
///     async fn add(
///         &self,
///         #[from_call] caller: Caller,
///         name: String,
///     ) -> Result<Created<u64>, ServiceError>;
/// }
///
/// struct Shelf;
///
/// impl Goods for Shelf {
///     async fn find(&self, id: u64) -> Result<String, GoodsError> {
///         if id == 7 { Ok("shoes".to_owned()) } else { Err(GoodsError::NoGood) }
///     }
///
///     async fn list(&self, limit: usize) -> Result<Vec<String>, ServiceError> {
///         Ok(["shoes".to_owned()].into_iter().take(limit).collect())
///     }
///
///     async fn add(&self, caller: Caller, name: String) -> Result<Created<u64>, ServiceError> {
///         println!("{:?} adds {name}", caller.name());
///         Ok(Created(8))
///     }
/// }
///
/// let node = Shelf.offer(Node::builder("goods"));
///
/// async fn name_of(peers: &Peers, id: u64) -> Result<Option<String>, CallError> {
///     match GoodsClient::new(peers).find(id).await {
///         Ok(name) => Ok(Some(name)),
///         Err(ServiceCallError::Refused(GoodsError::NoGood)) => Ok(None),
///         Err(ServiceCallError::Failed(error)) => Err(error),
///     }
/// }
/// ```
///
/// # Arguments
///
/// | an argument | is |
/// |---|---|
/// | `id: u64`, and the route has `{id}` | a parameter of the path |
/// | `name: String` | a member of the arguments; an `Option` may be missing |
/// | `#[default] n: u32`, `#[default(20)] n: u32` | the default if a caller does not send it |
/// | `#[from_call] caller: Caller` | what a handler takes: `Peers`, `Caller`, `Trace`, … |
/// | `#[from_call] parts: Items<T>` | the parts that the caller sends |
///
/// Callers do not pass what comes from the call. All types are owned.
///
/// # Results
///
/// `T` is anything that has a JSON form and can be read back. Callers of a method that returns
/// `Created<T>`, `Accepted<T>` or `HttpResponse<T>` get the `T`, and `()` for `NoContent`. Callers
/// of a [`BoxStreaming<T>`](crate::BoxStreaming), or of a method with `Items`, get a
/// [`ServiceStream`](crate::ServiceStream).
///
/// `E` is a [`ServiceError`](crate::ServiceError), and then callers get a
/// [`CallError`](crate::CallError); or it is an enum that derives
/// [`Refusal`](trait@crate::Refusal), and then they get a
/// [`ServiceCallError`](crate::ServiceCallError) with its variants.
///
/// # The client
///
/// The client of a trait `Goods` is `GoodsClient`. Its methods return a
/// [`ServiceCall`](crate::ServiceCall), which has the settings of
/// [`Peers::call`](crate::Peers::call) and is awaited. Settings of the client hold for all of its
/// calls:
///
/// ```
/// # use node_sdk::{CallError, Peers, ServiceError};
/// # #[node_sdk::service]
/// # trait Goods {
/// #     #[route("GET/goods/{id}")]
/// #     async fn find(&self, id: u64) -> Result<String, ServiceError>;
/// # }
/// use std::time::Duration;
///
/// async fn both(peers: &Peers, user: &str) -> Result<[String; 2], CallError> {
///     let goods = GoodsClient::new(peers).timeout(Duration::from_secs(1)).sticky_key(user);
///     Ok([goods.find(7).await?, goods.find(8).hedge(Duration::from_millis(20)).await?])
/// }
/// ```
///
/// Nothing on the wire shows how a service was written.
///
/// # Schemas
///
/// `#[service(schema)]`, of the feature `schema`, makes JSON schemas of the arguments and results,
/// whose types derive `schemars::JsonSchema`: see [`NodeBuilder`](crate::NodeBuilder), `schema`.
///
/// # Mistakes
///
/// A route that is not one, a parameter that is not an argument, and two methods of one route are
/// errors of the compiler at the text of the route.
pub use node_sdk_macros::service;

pub use node_sdk_macros::Refusal;
