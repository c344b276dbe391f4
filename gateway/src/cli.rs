//! The command line of the `gateway` program.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use daemon::{LogFormat, LogLevel, bind_shared, duration, exit_code, init_log, listen_address, raise_open_files};
use tokio::runtime;

use crate::{Config, serve_all};

/// The one front door: HTTP in, packets out, routes learned from the registry.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 stopped by a signal, 2 bad command line, 3 port in use, 4 cannot listen, 1 other."
)]
struct Args {
    /// Address to serve HTTP on.
    #[arg(long, value_name = "ADDRESS", env = "GATEWAY_LISTEN", default_value = "127.0.0.1:8000", value_parser = listen_address)]
    listen: SocketAddr,
    /// Threads that serve; one for each core unless given.
    #[arg(long, value_name = "N", env = "GATEWAY_WORKERS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
    /// Where the Distributor is.
    #[arg(long, value_name = "ADDRESS", env = "GATEWAY_DISTRIBUTOR", default_value = "127.0.0.1:9000", value_parser = host_and_port)]
    distributor: String,
    /// File to keep what is known of the services in, so that the next start can serve before the Distributor is there.
    #[arg(long, value_name = "FILE", env = "GATEWAY_CACHE")]
    cache: Option<PathBuf>,
    /// How long a request may take.
    #[arg(long, value_name = "TIME", env = "GATEWAY_REQUEST_TIMEOUT", default_value = "10s", value_parser = duration)]
    request_timeout: Duration,
    /// Bytes of one request body.
    #[arg(long, value_name = "BYTES", env = "GATEWAY_MAX_BODY_BYTES", default_value_t = 1 << 20)]
    max_body_bytes: usize,
    /// Clients at a time; further ones are closed at once.
    #[arg(long, value_name = "N", env = "GATEWAY_MAX_CONNECTIONS", default_value_t = 10_000)]
    max_connections: usize,
    /// How long the head of a request may take from its first byte to its last.
    #[arg(long, value_name = "TIME", env = "GATEWAY_HEADER_TIMEOUT", default_value = "10s", value_parser = duration)]
    header_timeout: Duration,
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
    /// Form of the log on standard error.
    #[arg(long, value_enum, env = "GATEWAY_LOG_FORMAT", default_value_t)]
    log_format: LogFormat,
    /// off, error, warn, info, debug, trace, or levels per module.
    #[arg(long, value_name = "LEVEL", env = "GATEWAY_LOG_LEVEL", default_value = "info")]
    log_level: LogLevel,
}

impl Args {
    fn config(self) -> Config {
        Config {
            distributor: self.distributor,
            cache: self.cache,
            request_timeout: self.request_timeout,
            max_body_bytes: self.max_body_bytes,
            max_connections: self.max_connections,
            header_timeout: self.header_timeout,
            response_idle_timeout: self.response_idle_timeout,
            idle_timeout: self.idle_timeout,
            write_timeout: self.write_timeout,
            drain_timeout: self.drain_timeout,
            empty_404: self.empty_404,
        }
    }
}

/// Runs the program: reads the command line, listens, serves until a signal.
pub fn main() -> ExitCode {
    let args = Args::parse();
    init_log(args.log_format, &args.log_level);
    raise_open_files();
    // Requests have threads of their own: see `serve_all`.
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit_code(&error),
    };
    runtime.block_on(async {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let listeners = match bind_shared(args.listen, args.workers.map_or_else(cores, usize::from)) {
            Ok(listeners) => listeners,
            Err(error) => return exit_code(&error),
        };
        let served = match daemon::stop_on_signals() {
            Ok(stop) => serve_all(listeners, args.config(), stop).await,
            Err(error) => Err(error),
        };
        served.map_or_else(|error| exit_code(&error), |()| ExitCode::SUCCESS)
    })
}

/// A name or address with a port; the name is looked up at every attempt to connect, so it need not be known yet.
fn host_and_port(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(text.to_owned()),
        _ => Err("write it like 127.0.0.1:9000 or registry.example:9000".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn defaults_of_the_command_line_are_those_of_the_library() {
        Args::command().debug_assert();
        let args = Args::parse_from(["gateway"]);
        assert_eq!(format!("{:?}", args.config()), format!("{:?}", Config::default()));
    }
}
