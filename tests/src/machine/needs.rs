//! The requirements of some tests on the machine that they run on. Without it they fail: a test
//! that was skipped in silence passes for one that has shown something.

/// Names what tests may do without, separated by commas, as in `SKIP_WITHOUT=node,namespaces`.
const SKIP_WITHOUT: &str = "SKIP_WITHOUT";

/// Whether a test that needs `what` can run. Where it is missing, the test fails with `remedy`,
/// unless the variable `SKIP_WITHOUT` of the environment has that word; then it is skipped, with a
/// line that says so. In CI nothing is skipped.
#[track_caller]
#[expect(clippy::print_stderr, reason = "the person who runs the tests should know which were skipped")]
pub fn can_run(what: &str, remedy: &str, is_there: bool) -> bool {
    let allowed = std::env::var(SKIP_WITHOUT).unwrap_or_default();
    let is_ci = std::env::var_os("CI").is_some();
    let can = decide(what, is_there, &allowed, is_ci);
    let Ok(can) = can else { panic!("this test needs {what}: {remedy}; or skip such tests by {SKIP_WITHOUT}={what}") };
    if !can {
        eprintln!("skipped: no {what} here");
    }
    can
}

/// Whether a program is here, for tests that need it.
#[track_caller]
pub fn tool_is_installed(program: &str) -> bool {
    let output = std::process::Command::new(program).arg("--version").output();
    can_run(program, "install it (`.ci/run tools` does)", output.is_ok_and(|output| output.status.success()))
}

/// Whether Node.js is here to run version 1 peers.
#[track_caller]
pub fn legacy_peers_can_run() -> bool {
    tool_is_installed("node")
}

/// Whether the test runs, or else is skipped; an error when it may not be skipped.
fn decide(what: &str, is_there: bool, allowed: &str, is_ci: bool) -> Result<bool, ()> {
    let may_skip = !is_ci && allowed.split(',').any(|word| word.trim() == what);
    if is_there || may_skip { Ok(is_there) } else { Err(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(is_there: bool, allowed: &str, is_ci: bool, expected: Result<bool, ()>) {
        assert_eq!(decide("node", is_there, allowed, is_ci), expected);
    }

    #[test]
    fn a_test_is_skipped_only_if_that_is_allowed() {
        check(true, "", false, Ok(true));
        check(true, "node", true, Ok(true));
        check(false, "", false, Err(()));
        check(false, "namespaces", false, Err(()));
        check(false, "namespaces, node", false, Ok(false));
        check(false, "node", true, Err(()));
    }
}
