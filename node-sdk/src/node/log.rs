//! The log of a program that has no other.

use net::{LogFormat, LogGuard, LogLevel};

use crate::error::StartError;

/// Starts the log of the program on standard error, as the daemons have it: aligned lines, or a
/// JSON object in each. No task waits for it: lines that cannot be written as fast as they come are
/// lost and counted. A program that has a tracing subscriber keeps it. Feature `log`.
///
/// | variable | value | default |
/// |---|---|---|
/// | `NODE_LOG_LEVEL` | a level, or levels per module as in `info,node_sdk=debug` | info |
/// | `NODE_LOG_FORMAT` | text or json | text |
///
/// Keep the guard until the end of `main`: it waits for the last lines.
///
/// ```no_run
/// # async fn hello() -> Result<String, node_sdk::ServiceError> { Ok("Hello!".to_owned()) }
/// use node_sdk::{Node, StartError, init_log};
///
/// #[tokio::main]
/// async fn main() -> Result<(), StartError> {
///     let _log = init_log()?;
///     Node::builder("hello").environment().route("GET/hello", hello).public().serve().await
/// }
/// ```
///
/// # Errors
/// [`StartError::Environment`] when a variable has a wrong value.
pub fn init_log() -> Result<LogGuard, StartError> {
    let (format, level) = settings(|name| std::env::var(name).ok()).map_err(StartError::Environment)?;
    Ok(net::init_log(format, &level))
}

/// What the variables say.
///
/// # Errors
/// A line for each wrong value.
fn settings(variable: impl Fn(&str) -> Option<String>) -> Result<(LogFormat, LogLevel), Vec<String>> {
    fn read<T: std::str::FromStr<Err = String> + Default>(name: &str, text: Option<String>) -> Result<T, String> {
        let Some(text) = text else { return Ok(T::default()) };
        text.parse().map_err(|reason| format!("{name}={text}: {reason}"))
    }
    let read_variable = |name| (name, variable(name));
    let ((format_name, format), (level_name, level)) =
        (read_variable("NODE_LOG_FORMAT"), read_variable("NODE_LOG_LEVEL"));
    match (read(format_name, format), read(level_name, level)) {
        (Ok(format), Ok(level)) => Ok((format, level)),
        (format, level) => Err([format.err(), level.err()].into_iter().flatten().collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m7_the_environment_says_what_is_logged_and_how() {
        #[track_caller]
        fn check(format: Option<&str>, level: Option<&str>, expected: Result<(LogFormat, &str), &[&str]>) {
            let seen = settings(|name| if name == "NODE_LOG_FORMAT" { format } else { level }.map(str::to_owned));
            let expected = expected.map(|(format, level)| (format, level.parse::<LogLevel>().unwrap()));
            assert_eq!(seen, expected.map_err(|lines| lines.iter().map(|line| (*line).to_owned()).collect()));
        }
        check(None, None, Ok((LogFormat::Text, "info")));
        check(Some("json"), Some("info,node_sdk=debug"), Ok((LogFormat::Json, "info,node_sdk=debug")));
        let levels =
            "write off, error, warn, info, debug or trace, or levels per module as in 'info,distributor=debug'";
        let level = format!("NODE_LOG_LEVEL=loud: {levels}");
        check(None, Some("loud"), Err(&[&level]));
        check(Some("xml"), Some("loud"), Err(&["NODE_LOG_FORMAT=xml: write text or json", &level]));
    }
}
