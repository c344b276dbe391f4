//! The command line of the `distributor` program.
//!
//! It must not decide anything about nodes, or hold a connection of one.

mod why;

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgMatches, Command, CommandFactory, FromArgMatches, Parser, Subcommand};
use net::{
    Settings, apply_arguments, bind, bind_all, exit_code, init_log, notify_systemd, raise_open_files, unknown_variables,
};
use tokio::runtime;
use tracing::{error, warn};

use self::why::why;
use crate::config::ProcessSettings;
use crate::{Config, serve_with_admin};

/// Descriptors that are not connections: listeners, log, epoll, and some to spare.
const OTHER_DESCRIPTORS: u64 = 32;
/// How long stopping may take: many times the usual 0.2 s.
const MAX_STOP_TIME: Duration = Duration::from_secs(5);
/// The prefix of all variables' names.
const PREFIX: &str = "DISTRIBUTOR_";

/// Keeps the list of live nodes and tells every node of each join and leave.
///
/// Settings that are left out come from the environment, or are the defaults.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 stopped by a signal, 2 bad command line or environment, 3 port in use, 4 cannot listen, 1 other."
)]
struct Args {
    #[command(subcommand)]
    command: Option<CliCommand>,
    /// Prints all settings with their defaults, as a file of environment variables.
    #[arg(long)]
    print_defaults: bool,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Asks a running Distributor what happened to a node: when it joined and left, and why. Exits
    /// with 1 if nothing is known of it. Do not ask a Distributor of version 1: it cannot answer,
    /// and crashes when a peer disconnects that has not registered.
    Why {
        /// The name, address (host:port) or instance id of the node.
        node: String,
        /// Where the Distributor is.
        #[arg(long, value_name = "ADDRESS", env = "DISTRIBUTOR", default_value = "127.0.0.1:9000")]
        at: String,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
}

/// All settings of the program.
#[derive(Debug, Default)]
struct DistributorSettings {
    process: ProcessSettings,
    config: Config,
}

impl DistributorSettings {
    /// Reads the arguments and the environment.
    ///
    /// # Errors
    /// All mistakes in them.
    fn read(matches: &ArgMatches) -> Result<Self, Vec<String>> {
        let mut settings = Self::default();
        let mut wrong = apply_arguments(&mut settings.process, matches, PREFIX);
        wrong.extend(apply_arguments(&mut settings.config, matches, PREFIX));
        if wrong.is_empty() { Ok(settings) } else { Err(wrong) }
    }
}

fn command() -> Command {
    let settings = ProcessSettings::SETTINGS.iter().chain(Config::SETTINGS);
    Args::command().args(settings.map(|setting| setting.argument(PREFIX)))
}

/// Runs the program: reads the command line, listens, serves until a signal.
pub fn main() -> ExitCode {
    let matches = command().get_matches();
    let args = Args::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if args.print_defaults {
        // It is not an error if the reader closes the pipe early.
        let _ = std::io::stdout().write_all(defaults().as_bytes());
        return ExitCode::SUCCESS;
    }
    let settings = DistributorSettings::read(&matches);
    let process = settings.as_ref().map(|settings| &settings.process);
    let (format, level) =
        process.map_or_else(|_| Default::default(), |process| (process.log_format, process.log_level.clone()));
    let _log = init_log(format, &level);
    let DistributorSettings { process, mut config } = match settings {
        Ok(settings) => settings,
        Err(wrong) => {
            wrong.iter().for_each(|wrong| error!("{wrong}"));
            return ExitCode::from(2);
        }
    };
    if let Some(CliCommand::Why { node, at, json }) = &args.command {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        return match runtime.and_then(|runtime| runtime.block_on(why(at, node, *json))) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::from(1),
            Err(error) => exit_code(&error),
        };
    }
    let names = std::env::vars_os().map(|(name, _)| name);
    for line in unknown_variables(names, PREFIX, &[ProcessSettings::SETTINGS, Config::SETTINGS], &[]) {
        warn!("{line}");
    }
    config.max_connections = connections_within(raise_open_files(), config.max_connections);
    // One thread: telling N nodes takes N small writes, for which two threads would only contend.
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit_code(&error),
    };
    runtime.block_on(async {
        // Signals are handled before the port opens: a program that can connect can also stop this
        // one in order.
        let stop = match net::stop_on_signals(|| MAX_STOP_TIME) {
            Ok(stop) => stop,
            Err(error) => return exit_code(&error),
        };
        let listeners = match bind_all(&process.listen) {
            Ok(listeners) => listeners,
            Err(error) => return exit_code(&error),
        };
        let admin = match process.admin.map(bind).transpose() {
            Ok(admin) => admin,
            Err(error) => return exit_code(&error.set_by("--admin")),
        };
        // The listeners are open: from now on no node is refused.
        notify_systemd("READY=1");
        serve_with_admin(listeners, admin, config, stop).await;
        ExitCode::SUCCESS
    })
}

/// `distributor --print-defaults`: a file that systemd reads as an `EnvironmentFile`, and shells
/// with `set -a`. It changes nothing.
fn defaults() -> String {
    let mut out = String::new();
    for setting in ProcessSettings::SETTINGS.iter().chain(Config::SETTINGS) {
        let (help, variable) = (setting.help(), setting.variable(PREFIX));
        let _ = match (setting.default)() {
            Some(default) if default.contains(' ') => writeln!(out, "# {help}\n{variable}='{default}'\n"),
            Some(default) => writeln!(out, "# {help}\n{variable}={default}\n"),
            None => writeln!(out, "# {help}\n#{variable}={}\n", setting.example()),
        };
    }
    out
}

/// Stays below the limit of open files, so that further connections are closed, and accept does not
/// fail.
fn connections_within(open_files: u64, wanted: usize) -> usize {
    let room = usize::try_from(open_files.saturating_sub(OTHER_DESCRIPTORS)).unwrap_or(usize::MAX).max(1);
    if room < wanted {
        warn!(
            "the limit of open files is {open_files}: at most {room} connections instead of {wanted}; raise it with ulimit -n or LimitNOFILE"
        );
    }
    wanted.min(room)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;
    use crate::OversizedList;

    #[track_caller]
    fn check(arguments: &[&str], expected: Result<(), &[&str]>) {
        let matches = command().try_get_matches_from(["distributor"].iter().chain(arguments)).unwrap();
        let seen = DistributorSettings::read(&matches).map(|_| ());
        assert_eq!(seen, expected.map_err(|lines| lines.iter().map(|line| (*line).to_owned()).collect()));
    }

    #[test]
    fn oe18_all_that_is_wrong_with_flags_is_told_at_once() {
        command().debug_assert();
        check(&[], Ok(()));
        check(&["--max-urls", "0", "--oversized-list", "send", "--listen", "127.0.0.1:1,[::1]:2"], Ok(()));
        check(
            &["--write-timeout", "0s", "--max-connections", "0", "--oversized-list", "cut", "--log-level", "loud"],
            Err(&[
                "--log-level loud: write off, error, warn, info, debug or trace, or levels per module as in 'info,distributor=debug'",
                "--max-connections 0: write a whole number of at least 1",
                "--write-timeout 0s: write a time of at least 1ms",
                "--oversized-list cut: write truncate or send",
            ]),
        );
    }

    #[test]
    fn the_defaults_that_are_printed_change_nothing() {
        let mut arguments = vec!["distributor".to_owned()];
        for line in defaults().lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (variable, value) = line.split_once('=').unwrap();
            let flag = variable.strip_prefix(PREFIX).unwrap().to_ascii_lowercase().replace('_', "-");
            arguments.push(format!("--{flag}={value}"));
        }
        assert!(arguments.len() > 25, "{arguments:?}");
        let matches = command().try_get_matches_from(arguments).unwrap();
        let seen = format!("{:?}", DistributorSettings::read(&matches).unwrap());
        assert_eq!(seen, format!("{:?}", DistributorSettings::default()));
    }

    #[test]
    fn words_of_a_setting_are_those_that_there_are() {
        let words: Vec<_> = OversizedList::value_variants().iter().filter_map(net::SettingValue::show).collect();
        assert_eq!(words.join("|"), <OversizedList as net::SettingValue>::UNIT);
    }

    #[test]
    fn the_table_of_the_documentation_is_this() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/DISTRIBUTOR.md");
        let table =
            net::settings_table(ProcessSettings::SETTINGS.iter().chain(Config::SETTINGS), |setting| setting.flag());
        let text = std::fs::read_to_string(page).unwrap();
        assert!(text.contains(&table), "docs/DISTRIBUTOR.md needs this table:\n\n{table}");
    }

    #[test]
    fn connections_stay_below_the_limit_of_open_files() {
        for (open_files, wanted, expected) in [(u64::MAX, 10_000, 10_000), (1024, 10_000, 992), (10, 10_000, 1)] {
            assert_eq!(connections_within(open_files, wanted), expected);
        }
    }
}
