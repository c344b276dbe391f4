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
