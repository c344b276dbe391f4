//! The command line of the `gateway` program.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgMatches, Command, CommandFactory, FromArgMatches, Parser, Subcommand};
use net::{
    SettingPlace, SettingValue, Settings as _, apply_arguments, exit_code, init_log, look_up_blocking,
    unknown_variables,
};
use protocol::{HostName, HostPort};
use tokio::runtime;
use tracing::{error, warn};

use crate::config::defaults::print_defaults;
use crate::config::file::{read_settings, try_settings};
use crate::config::settings::{AdminAddress, DEFAULT_ADMIN, ProcessSettings, Settings};
use crate::config::settings_error::SettingsError;
use crate::config::{Config, FixedAddress};
use crate::downstream::tls::Tls;
use crate::process::lifecycle;
use crate::process::upgrade::{OUTLIVES_TERMINAL, VARIABLE as TAKES_OVER};
use crate::upstream::unix_socket::unix_fault::SocketFile;

/// The prefix of all variables' names.
const PREFIX: &str = "GATEWAY_";
/// How long a gateway on this machine may take to list its routes.
const ROUTES_TIMEOUT: Duration = Duration::from_secs(5);

/// The gateway: HTTP in, packets or HTTP out, routes learned from the registry.
#[derive(Debug, Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Signals: SIGHUP reloads the configuration file and certificates, or stops if the terminal was closed (docs/GATEWAY.md), SIGUSR2 starts a new process and hands over to it,\nSIGTERM drains and stops, twice stops at once.\nExit codes: 0 stopped by a signal, 2 bad command line or configuration, 3 port in use, 4 cannot listen, 1 other."
)]
#[allow(rustdoc::broken_intra_doc_links, reason = "the docs of fields are the texts of the help")]
struct Args {
    #[command(subcommand)]
    command: Option<CliCommand>,
    /// TOML file with the settings under the names that they have here (request_timeout = "10s"),
    /// [tls], and [[route]] tables with the rules of paths. The command line and the environment
    /// win over it. See docs/GATEWAY.md.
    #[arg(long, value_name = "FILE", env = "GATEWAY_CONFIG")]
    config: Option<PathBuf>,
    /// Prints a configuration file with all defaults.
    #[arg(long)]
    print_defaults: bool,
}

#[derive(Clone, Debug, Subcommand)]
enum CliCommand {
    /// Reads a configuration file and its certificates, and reports all mistakes.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Asks a running gateway which requests go where, and why.
    Routes {
        /// The gateway's address for operators.
        #[arg(long, value_name = "ADDRESS", env = "GATEWAY_ADMIN", default_value_t = DEFAULT_ADMIN.to_string())]
        admin: String,
    },
}

/// The command line. It names the file, which can be read again.
#[derive(Debug)]
pub(crate) struct CommandLine {
    matches: ArgMatches,
    config: Option<PathBuf>,
}

impl CommandLine {
    /// Reads the present settings.
    ///
    /// # Errors
    /// All mistakes in the file, the flags and the variables.
    pub(crate) fn settings(&self) -> Result<Settings, SettingsError> {
        read_settings(self.config.as_deref(), |settings| self.apply(settings))
    }

    fn apply(&self, settings: &mut Settings) -> Vec<String> {
        let mut wrong = apply_arguments(&mut settings.process, &self.matches, PREFIX);
        wrong.extend(apply_arguments(&mut settings.config, &self.matches, PREFIX));
        wrong
    }
}

fn command() -> Command {
    let settings = ProcessSettings::SETTINGS.iter().chain(Config::SETTINGS);
    let settings = settings.filter(|setting| setting.place != SettingPlace::File);
    Args::command().args(settings.map(|setting| setting.argument(PREFIX)))
}

/// Runs the program: reads the command line, listens, serves until a signal.
pub fn main() -> ExitCode {
    let matches = command().get_matches();
    let args = Args::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if args.print_defaults {
        print(&print_defaults());
        return ExitCode::SUCCESS;
    }
    match &args.command {
        Some(CliCommand::Check { file }) => return check(file),
        Some(CliCommand::Routes { admin }) => return routes(admin),
        None => {}
    }
    let command_line = CommandLine { matches, config: args.config };
    let settings = command_line.settings();
    let process = settings.as_ref().map(|settings| &settings.process);
    let (format, level) =
        process.map_or_else(|_| Default::default(), |process| (process.log_format, process.log_level.clone()));
    let _log = init_log(format, &level);
    let settings = match settings {
        Ok(settings) => settings,
        Err(wrong) => {
            wrong.lines().iter().for_each(|line| error!("{line}"));
            return ExitCode::from(2);
        }
    };
    for line in unknown(std::env::vars_os().map(|(name, _)| name)).iter().chain(&settings.warnings) {
        warn!("{line}");
    }
    // Requests have threads of their own: see `serve_all`.
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit_code(&error),
    };
    let has_file = command_line.config.is_some();
    let read = has_file.then_some(move || command_line.settings());
    let ran = runtime.block_on(lifecycle::run(settings, read));
    // Does not wait for a process that is being started, or for a disk.
    runtime.shutdown_background();
    ran
}

/// Variables that look like settings, but are not.
fn unknown(names: impl Iterator<Item = OsString>) -> Vec<String> {
    let settings = [ProcessSettings::SETTINGS, Config::SETTINGS];
    unknown_variables(names, PREFIX, &settings, &["GATEWAY_CONFIG", TAKES_OVER, OUTLIVES_TERMINAL])
}

/// Prints to standard output. A reader that closes it early is not an error.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// `gateway check FILE`.
#[expect(clippy::print_stderr, reason = "this is what the command is for")]
fn check(file: &Path) -> ExitCode {
    let (settings, mut mistakes) = try_settings(Some(file), |_| Vec::new());
    let certificates = settings.config.certificates.iter().map(std::slice::from_ref);
    mistakes.extend(certificates.filter_map(|one| Tls::new(one).err()).map(|error| error.to_string()));
    mistakes.iter().chain(&settings.warnings).for_each(|line| eprintln!("{line}"));
    if !mistakes.is_empty() {
        return ExitCode::from(2);
    }
    for server in settings.config.routes.iter().flat_map(|route| &route.servers) {
        let fault = match &server.address {
            FixedAddress::Host(HostPort { host: HostName::Name(name), port }) => {
                look_up_blocking(name, *port).err().map(|error| error.to_string())
            }
            FixedAddress::Host(HostPort { host: HostName::Ip(_), .. }) => None,
            FixedAddress::Unix(path) => SocketFile::at(path).err().map(|fault| format!("{path}: {fault}")),
        };
        if let Some(fault) = fault {
            eprintln!("warning: {fault}; until that changes, {} gets no requests", server.address);
        }
    }
    let servers: usize = settings.config.routes.iter().map(|route| route.servers.len()).sum();
    let routes = settings.config.routes.len();
    let (file, warnings) = (file.display(), settings.warnings.len());
    let fine = match warnings {
        0 => format!("{file} is fine"),
        1 => format!("{file} can be used, but 1 of its settings has no effect"),
        _ => format!("{file} can be used, but {warnings} of its settings have no effect"),
    };
    print(&format!("{fine}; it has {routes} routes, and names {servers} servers that do not register\n"));
    ExitCode::SUCCESS
}

/// `gateway routes`.
#[expect(clippy::print_stderr, reason = "this is what the command is for")]
fn routes(admin: &str) -> ExitCode {
    let admin = match AdminAddress::read(admin, None) {
        Ok(AdminAddress::At(address)) => address,
        Ok(AdminAddress::Off) => {
            eprintln!("the gateway has no address for operators: GATEWAY_ADMIN or --admin says off");
            return ExitCode::from(2);
        }
        Err(why) => {
            eprintln!("the address for operators is {admin}: {why}; name it with --admin");
            return ExitCode::from(2);
        }
    };
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&admin, ROUTES_TIMEOUT)?;
        stream.set_read_timeout(Some(ROUTES_TIMEOUT))?;
        write!(stream, "GET /routes HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok::<_, std::io::Error>(text)
    };
    match ask() {
        Ok(text) if text.starts_with("HTTP/1.1 200") => {
            print(text.split_once("\r\n\r\n").map_or("", |(_, body)| body));
            ExitCode::SUCCESS
        }
        Ok(_) => {
            eprintln!("the server at {admin} is not a gateway; give the gateway's address with --admin");
            ExitCode::from(1)
        }
        Err(error) => {
            eprintln!("no gateway answers at {admin}: {error}; name its address with --admin");
            ExitCode::from(1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(arguments: &[&str]) -> CommandLine {
        let matches = command().try_get_matches_from(["gateway"].iter().chain(arguments)).unwrap();
        CommandLine { matches, config: None }
    }

    #[test]
    fn arguments_change_what_they_name_and_all_mistakes_are_told() {
        command().debug_assert();
        let as_ever = format!("{:?}", Settings::default());
        assert_eq!(format!("{:?}", line(&[]).settings().unwrap()), as_ever);
        let settings = line(&["--idle-timeout", "5s", "--workers", "3", "--h2c"]).settings().unwrap();
        assert_eq!((settings.config.idle_timeout, settings.process.workers), (Duration::from_secs(5), Some(3)));
        assert!(settings.config.h2c);
        let wrong = line(&["--listen", "foo", "--workers", "0", "--distributor", "foo"]).settings().unwrap_err();
        let [listen, workers, distributor] = wrong.lines() else { panic!("{wrong}") };
        assert!(listen.starts_with("--listen foo: ") && listen.contains("write it like"), "{listen}");
        assert_eq!(workers, "--workers 0: write a whole number from 1 to 1024");
        assert!(distributor.starts_with("--distributor foo: it has no port; write it like"), "{distributor}");
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let folder = std::env::temp_dir().join(format!("gateway-cli-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("gateway.toml");
        let text = "idle_timeout = \"5s\"\nworkers = 7\nwrite_timeout = \"6s\"\nempty_404 = true\nh2c = true\n";
        std::fs::write(&file, text).unwrap();
        let settings =
            CommandLine { config: Some(file), ..line(&["--idle-timeout", "1m", "--workers", "3", "--h2c=off"]) };
        let settings = settings.settings().unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        let config = &settings.config;
        assert_eq!((config.idle_timeout, settings.process.workers), (Duration::from_secs(60), Some(3)));
        assert_eq!((config.write_timeout, config.empty_404, config.h2c), (Duration::from_secs(6), true, false));
    }

    #[test]
    fn oe19_variables_of_the_gateway_that_set_nothing_are_named() {
        let names = ["GATEWAY_CONFIG", "GATEWAY_TAKES_OVER", "GATEWAY_PORT", "GATEWAY_LISTEN", "GATEWAY_LISSEN"];
        assert_eq!(
            unknown(names.into_iter().map(OsString::from)),
            ["the variable GATEWAY_LISSEN sets nothing; did you mean GATEWAY_LISTEN?"]
        );
    }
}
