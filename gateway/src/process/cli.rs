//! The command line of the `gateway` program.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use net::{LogFormat, LogLevel, duration, exit_code, init_log, listen_address, look_up_blocking};
use protocol::{HostName, HostPort};
use tokio::runtime;
use tracing::error;

use crate::config::Config;
use crate::config::file::{ConfigFile, FileError};
use crate::config::settings::{AdminAddress, DEFAULT_ADMIN, Settings, admin_address, advertised, host_and_port};
use crate::config::values::Parsed;
use crate::downstream::tls::Tls;
use crate::observe::access_log::AccessLogFormat;
use crate::process::lifecycle;

/// The one front door: HTTP in, packets or HTTP out, routes learned from the registry.
#[derive(Debug, Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Signals: SIGHUP reads the configuration file and certificates anew, SIGUSR2 starts the program anew and hands over to it,\nSIGTERM drains and stops, twice stops at once.\nExit codes: 0 stopped by a signal, 2 bad command line or configuration, 3 port in use, 4 cannot listen, 1 other."
)]
struct Args {
    #[command(subcommand)]
    command: Option<CliCommand>,
    /// TOML file with settings under the names that they have here (request_timeout = "10s"),
    /// [tls], and [[route]] tables for what holds below a path. What the command line or the
    /// environment says wins. See docs/GATEWAY.md.
    #[arg(long, value_name = "FILE", env = "GATEWAY_CONFIG")]
    config: Option<PathBuf>,
    /// Print a configuration file with all defaults.
    #[arg(long)]
    print_defaults: bool,
    /// Address to serve HTTP on.
    #[arg(long, value_name = "ADDRESS", env = "GATEWAY_LISTEN", default_value = "127.0.0.1:8000", value_parser = listen_address)]
    listen: SocketAddr,
    /// Address for /health, /ready and /metrics; `off` for none. Unless given, 127.0.0.1:8001, or
    /// none if that is taken.
    #[arg(long, value_name = "ADDRESS", env = "GATEWAY_ADMIN", value_parser = admin_address)]
    admin: Option<AdminAddress>,
    /// Threads that serve; one for each core unless given.
    #[arg(long, value_name = "N", env = "GATEWAY_WORKERS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
    /// Where the Distributor is.
    #[arg(long, value_name = "ADDRESS", env = "GATEWAY_DISTRIBUTOR", default_value = "127.0.0.1:9000", value_parser = host_and_port)]
    distributor: String,
    /// Where nodes are told that this gateway is, if that is another address than the Distributor
    /// sees, or another port than it listens on.
    #[arg(long, value_name = "ADDRESS", env = "GATEWAY_ADVERTISE", value_parser = advertised)]
    advertise: Option<HostPort>,
    /// File to keep what is known of the services in, so that the next start can serve before the
    /// Distributor is there.
    #[arg(long, value_name = "FILE", env = "GATEWAY_CACHE")]
    cache: Option<PathBuf>,
    /// How long a request may take.
    #[arg(long, value_name = "TIME", env = "GATEWAY_REQUEST_TIMEOUT", default_value = "10s", value_parser = duration)]
    request_timeout: Duration,
    /// Bytes of one request body.
    #[arg(long, value_name = "BYTES", env = "GATEWAY_MAX_BODY_BYTES", default_value_t = 1 << 20)]
    max_body_bytes: usize,
    /// Bytes of bodies for nodes and of their answers that are held for all clients together,
    /// beyond 16 KiB for each connection; one client has at most as much as is free.
    #[arg(long, value_name = "BYTES", env = "GATEWAY_MAX_HELD_BYTES", default_value_t = Config::MAX_HELD_BYTES)]
    max_held_bytes: usize,
    /// Clients at a time; further ones are closed at once.
    #[arg(long, value_name = "N", env = "GATEWAY_MAX_CONNECTIONS", default_value_t = 10_000)]
    max_connections: usize,
    /// How long the head of a request may take from its first byte to its last.
    #[arg(long, value_name = "TIME", env = "GATEWAY_HEADER_TIMEOUT", default_value = "10s", value_parser = duration)]
    header_timeout: Duration,
    /// How long TLS may take to agree.
    #[arg(long, value_name = "TIME", env = "GATEWAY_HANDSHAKE_TIMEOUT", default_value = "5s", value_parser = duration)]
    handshake_timeout: Duration,
    /// Speak HTTP/2 without TLS too, to clients that begin with it.
    #[arg(long, env = "GATEWAY_H2C")]
    h2c: bool,
    /// How long a server that speaks HTTP may send nothing of a response that it has begun.
    #[arg(long, value_name = "TIME", env = "GATEWAY_RESPONSE_IDLE_TIMEOUT", default_value = "1m", value_parser = duration)]
    response_idle_timeout: Duration,
    /// How long a client may be idle between requests.
    #[arg(long, value_name = "TIME", env = "GATEWAY_IDLE_TIMEOUT", default_value = "1m", value_parser = duration)]
    idle_timeout: Duration,
    /// How long a client may take nothing of its response.
    #[arg(long, value_name = "TIME", env = "GATEWAY_WRITE_TIMEOUT", default_value = "30s", value_parser = duration)]
    write_timeout: Duration,
    /// How long requests in flight may take to finish when the gateway stops.
    #[arg(long, value_name = "TIME", env = "GATEWAY_DRAIN_TIMEOUT", default_value = "30s", value_parser = duration)]
    drain_timeout: Duration,
    /// Answer unknown routes as the old gateway did: 404 with an empty body.
    #[arg(long, env = "GATEWAY_EMPTY_404")]
    empty_404: bool,
    /// A line for each request on standard output.
    #[arg(long, value_enum, env = "GATEWAY_ACCESS_LOG", default_value_t)]
    access_log: AccessLogFormat,
    /// Form of the log on standard error.
    #[arg(long, value_enum, env = "GATEWAY_LOG_FORMAT", default_value_t)]
    log_format: LogFormat,
    /// off, error, warn, info, debug, trace, or levels per module.
    #[arg(long, value_name = "LEVEL", env = "GATEWAY_LOG_LEVEL", default_value = "info")]
    log_level: LogLevel,
}

#[derive(Clone, Debug, Subcommand)]
enum CliCommand {
    /// Reads a configuration file, with the certificates that it names, and says what is wrong, if
    /// anything is.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Asks a gateway that runs what goes where, and why.
    Routes {
        /// Its address for operators.
        #[arg(long, value_name = "ADDRESS", env = "GATEWAY_ADMIN", default_value_t = DEFAULT_ADMIN, value_parser = listen_address)]
        admin: SocketAddr,
    },
}

/// What only a file can say.
#[derive(Debug, Default)]
struct FileOnlySettings {
    tls: Option<SocketAddr>,
    config: Config,
}

/// The command line. It names the file, which can be read again.
#[derive(Debug)]
pub(crate) struct CommandLine {
    matches: ArgMatches,
}

impl CommandLine {
    /// What holds now.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(crate) fn settings(&self) -> Result<Settings, FileError> {
        let mut args = Args::from_arg_matches(&self.matches).unwrap_or_else(|error| error.exit());
        let file = args.config.as_deref().map(ConfigFile::read).transpose()?.unwrap_or_default();
        // A flag that is there in vain, and one that is not there, are told apart by where its
        // value comes from.
        let given = |name: &str| !matches!(self.matches.value_source(name), None | Some(ValueSource::DefaultValue));
        let only_in_file = args.merge_file(file, given);
        Ok(args.settings(only_in_file))
    }
}

impl Args {
    /// Takes over what a file says, except for what was `given` otherwise. Gives what only a file
    /// can say.
    fn merge_file(&mut self, file: ConfigFile, given: impl Fn(&str) -> bool) -> FileOnlySettings {
        fn set<T>(setting: &mut T, said: Option<T>, given: bool) {
            if let Some(said) = said.filter(|_| !given) {
                *setting = said;
            }
        }
        let time = |said: Option<Parsed<Duration>>| said.map(|Parsed(time)| time);
        set(&mut self.listen, file.listen.map(|Parsed(address)| address), given("listen"));
        set(&mut self.admin, file.admin.map(|Parsed(address)| Some(address)), given("admin"));
        set(&mut self.distributor, file.distributor, given("distributor"));
        set(&mut self.advertise, file.advertise.map(|Parsed(address)| Some(address)), given("advertise"));
        set(&mut self.workers, file.workers.map(Some), given("workers"));
        set(&mut self.cache, file.cache.map(Some), given("cache"));
        set(&mut self.request_timeout, time(file.request_timeout), given("request_timeout"));
        set(&mut self.handshake_timeout, time(file.handshake_timeout), given("handshake_timeout"));
        set(&mut self.response_idle_timeout, time(file.response_idle_timeout), given("response_idle_timeout"));
        set(&mut self.max_body_bytes, file.max_body_bytes, given("max_body_bytes"));
        set(&mut self.max_held_bytes, file.max_held_bytes, given("max_held_bytes"));
        set(&mut self.max_connections, file.max_connections, given("max_connections"));
        set(&mut self.header_timeout, time(file.header_timeout), given("header_timeout"));
        set(&mut self.idle_timeout, time(file.idle_timeout), given("idle_timeout"));
        set(&mut self.write_timeout, time(file.write_timeout), given("write_timeout"));
        set(&mut self.drain_timeout, time(file.drain_timeout), given("drain_timeout"));
        set(&mut self.access_log, file.access_log.map(|Parsed(format)| format), given("access_log"));
        set(&mut self.empty_404, file.empty_404, given("empty_404"));
        set(&mut self.h2c, file.h2c, given("h2c"));
        let networks = |list: Vec<Parsed<_>>| list.into_iter().map(|Parsed(network)| network).collect();
        let (tls, certificates) = file.tls.map_or((None, Vec::new()), |tls| (Some(tls.listen.0), tls.certificates));
        let trusted: Vec<_> = networks(file.trusted);
        // Without TLS here, a proxy that is believed speaks it, at the usual port.
        let is_behind_one = !trusted.is_empty() || !file.proxy_protocol.is_empty();
        let behind_proxy = is_behind_one.then_some(443);
        let redirect = tls.map(|tls| tls.port()).or(behind_proxy).filter(|_| file.redirect);
        let config = Config {
            redirect,
            certificates,
            proxy_protocol: networks(file.proxy_protocol),
            trusted,
            cookie_secret: file.cookie_secret,
            routes: file.route,
            ..Config::default()
        };
        FileOnlySettings { tls, config }
    }

    fn settings(self, file: FileOnlySettings) -> Settings {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let config = Config {
            distributor: self.distributor,
            advertise: self.advertise,
            cache: self.cache,
            request_timeout: self.request_timeout,
            handshake_timeout: self.handshake_timeout,
            max_body_bytes: self.max_body_bytes,
            max_held_bytes: self.max_held_bytes,
            max_connections: self.max_connections,
            header_timeout: self.header_timeout,
            response_idle_timeout: self.response_idle_timeout,
            idle_timeout: self.idle_timeout,
            write_timeout: self.write_timeout,
            drain_timeout: self.drain_timeout,
            empty_404: self.empty_404,
            h2c: self.h2c,
            access_log: self.access_log,
            ..file.config
        };
        let workers = self.workers.map_or_else(cores, usize::from);
        Settings { listen: self.listen, tls: file.tls, admin: self.admin, workers, config }
    }
}

/// Runs the program: reads the command line, listens, serves until a signal.
pub fn main() -> ExitCode {
    let matches = Args::command().get_matches();
    let args = Args::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if args.print_defaults {
        print(&defaults());
        return ExitCode::SUCCESS;
    }
    match &args.command {
        Some(CliCommand::Check { file }) => return check(file),
        Some(CliCommand::Routes { admin }) => return routes(*admin),
        None => {}
    }
    let _log = init_log(args.log_format, &args.log_level);
    let command_line = CommandLine { matches };
    let settings = match command_line.settings() {
        Ok(settings) => settings,
        Err(wrong) => {
            error!("{wrong}");
            return ExitCode::from(2);
        }
    };
    // Requests have threads of their own: see `serve_all`.
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit_code(&error),
    };
    let ran = runtime.block_on(lifecycle::run(settings, move || command_line.settings()));
    // Does not wait for a process that is being started, or for a disk.
    runtime.shutdown_background();
    ran
}

/// Prints to standard output. A reader that closes it early is no error.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Settings of the command line that a file does not have: which file it is, and how to speak of
/// what it says.
const NOT_IN_FILE: [&str; 4] = ["config", "print_defaults", "log_format", "log_level"];

/// `gateway --print-defaults`: a file that changes nothing.
fn defaults() -> String {
    let mut out = String::new();
    for setting in Args::command().get_arguments().filter(|setting| !NOT_IN_FILE.contains(&setting.get_id().as_str())) {
        let (name, help) = (setting.get_id(), setting.get_help().map(ToString::to_string).unwrap_or_default());
        let value = setting.get_default_values().first().map(|value| value.to_string_lossy());
        let _ = match value {
            _ if !setting.get_action().takes_values() => writeln!(out, "# {help}\n{name} = false\n"),
            Some(number) if number.parse::<u64>().is_ok() => writeln!(out, "# {help}\n{name} = {number}\n"),
            Some(text) => writeln!(out, "# {help}\n{name} = {text:?}\n"),
            None => writeln!(out, "# {help}\n# {name} =\n"),
        };
    }
    out.push_str("# What has no default (redirect, trusted, proxy_protocol, cookie_secret, [tls], [[route]]) is in docs/GATEWAY.md.\n");
    out
}

/// `gateway check FILE`.
#[expect(clippy::print_stderr, reason = "this is what the command is for")]
fn check(file: &Path) -> ExitCode {
    let certificates =
        |read: &ConfigFile| read.tls.as_ref().map(|tls| Tls::new(&tls.certificates)).transpose().map(drop);
    match ConfigFile::read(file) {
        Ok(read) => {
            if let Err(wrong) = certificates(&read) {
                eprintln!("{wrong}");
                return ExitCode::from(2);
            }
            for server in read.route.iter().flat_map(|route| &route.servers) {
                if let HostName::Name(name) = &server.address.host
                    && let Err(error) = look_up_blocking(name, server.address.port)
                {
                    eprintln!("warning: {error}; as long as that is so, {} gets no request", server.address);
                }
            }
            let servers: usize = read.route.iter().map(|route| route.servers.len()).sum();
            let routes = read.route.len();
            print(&format!(
                "{} is fine; it has {routes} routes, and names {servers} servers that do not register\n",
                file.display()
            ));
            ExitCode::SUCCESS
        }
        Err(wrong) => {
            eprintln!("{wrong}");
            ExitCode::from(2)
        }
    }
}

/// `gateway routes`.
#[expect(clippy::print_stderr, reason = "this is what the command is for")]
fn routes(admin: SocketAddr) -> ExitCode {
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&admin, ROUTES_PATIENCE)?;
        stream.set_read_timeout(Some(ROUTES_PATIENCE))?;
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
            eprintln!("what answers at {admin} is no gateway; name its address with --admin");
            ExitCode::from(1)
        }
        Err(error) => {
            eprintln!("no gateway answers at {admin}: {error}; name its address with --admin");
            ExitCode::from(1)
        }
    }
}

/// How long a gateway on this machine may take to say what goes where.
const ROUTES_PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_of_the_command_line_are_those_of_the_library() {
        Args::command().debug_assert();
        let args = Args::parse_from(["gateway"]);
        let settings = args.settings(FileOnlySettings::default());
        assert_eq!(format!("{:?}", settings.config), format!("{:?}", Config::default()));
    }

    #[test]
    fn oe14_the_defaults_that_are_printed_are_a_file_that_changes_nothing() {
        let text = defaults();
        let file = ConfigFile::parse(&text).unwrap();
        assert!(file.request_timeout.is_some() && file.listen.is_some() && file.h2c == Some(false), "{text}");
        for name in ["admin", "workers", "cache"] {
            assert!(text.contains(&format!("\n# {name} =\n")), "{name} in {text}");
        }
        let (mut args, as_ever) = (Args::parse_from(["gateway"]), Args::parse_from(["gateway"]));
        let only_in_file = args.merge_file(file, |_| false);
        let seen = format!("{:?}", args.settings(only_in_file));
        assert_eq!(seen, format!("{:?}", as_ever.settings(FileOnlySettings::default())));
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let matches = Args::command().get_matches_from(["gateway", "--idle-timeout", "1m", "--workers", "3"]);
        let mut args = Args::from_arg_matches(&matches).unwrap();
        let file = ConfigFile {
            idle_timeout: Some(Parsed(Duration::from_secs(5))),
            workers: Some(7),
            write_timeout: Some(Parsed(Duration::from_secs(6))),
            empty_404: Some(true),
            ..ConfigFile::default()
        };
        let given = |name: &str| !matches!(matches.value_source(name), None | Some(ValueSource::DefaultValue));
        args.merge_file(file, given);
        assert_eq!((args.idle_timeout, args.workers), (Duration::from_secs(60), Some(3)));
        assert_eq!((args.write_timeout, args.empty_404), (Duration::from_secs(6), true));
    }
}
