//! The command line of the `distributor` program.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use daemon::{LogFormat, LogLevel, bind_all, duration, exit_code, init_log, listen_address, raise_open_files};
use protocol::RegistrationLimits;
use tokio::runtime;
use tracing::warn;

use crate::{Config, OversizedList, serve};

/// Descriptors that are not connections: listeners, log, epoll, and some to spare.
const OTHER_DESCRIPTORS: u64 = 32;

/// Keeps the list of live nodes and tells every node of each join and leave.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 stopped by a signal, 2 bad command line, 3 port in use, 4 cannot listen, 1 other."
)]
struct Args {
    /// Address to listen on; may be given several times. [::] takes IPv4 as well, unless an IPv4 address of that port is
    /// given too.
    #[arg(long, value_name = "ADDRESS", env = "DISTRIBUTOR_LISTEN", value_delimiter = ',', default_value = "127.0.0.1:9000", value_parser = listen_address)]
    listen: Vec<SocketAddr>,
    /// Connections at a time; further ones are closed at once.
    #[arg(long, value_name = "N", env = "DISTRIBUTOR_MAX_CONNECTIONS", default_value_t = 10_000)]
    max_connections: usize,
    /// Bytes of one packet from a node.
    #[arg(long, value_name = "BYTES", env = "DISTRIBUTOR_MAX_FRAME_BYTES", default_value_t = 65_536)]
    max_frame_bytes: usize,
    /// How deep a packet may be nested.
    #[arg(long, value_name = "N", env = "DISTRIBUTOR_MAX_JSON_DEPTH", default_value_t = 32)]
    max_json_depth: usize,
    /// Urls of one node.
    #[arg(long, value_name = "N", env = "DISTRIBUTOR_MAX_URLS", default_value_t = 256)]
    max_urls: usize,
    /// Bytes of one url.
    #[arg(long, value_name = "BYTES", env = "DISTRIBUTOR_MAX_URL_BYTES", default_value_t = 512)]
    max_url_bytes: usize,
    /// Broken packets after which a connection is cut.
    #[arg(long, value_name = "N", env = "DISTRIBUTOR_MAX_STRIKES", default_value_t = 3)]
    max_strikes: u32,
    /// Empty packets a second after which a connection is cut.
    #[arg(long, value_name = "N", env = "DISTRIBUTOR_MAX_BLANK_FRAMES", default_value_t = 1000)]
    max_blank_frames: u32,
    /// How long a packet may take from its first byte to its last.
    #[arg(long, value_name = "TIME", env = "DISTRIBUTOR_FRAME_TIMEOUT", default_value = "10s", value_parser = duration)]
    frame_timeout: Duration,
    /// How long a node may take nothing of what it is sent before it is cut.
    #[arg(long, value_name = "TIME", env = "DISTRIBUTOR_WRITE_TIMEOUT", default_value = "10s", value_parser = duration)]
    write_timeout: Duration,
    /// Bytes of a list that version 1 nodes can read.
    #[arg(long, value_name = "BYTES", env = "DISTRIBUTOR_LEGACY_LIST_BYTES", default_value_t = 65_536)]
    legacy_list_bytes: usize,
    /// After this time without a list, version 1 nodes on other machines are assumed to have read everything.
    #[arg(long, value_name = "TIME", env = "DISTRIBUTOR_LEGACY_READ_TIME", default_value = "500ms", value_parser = duration)]
    legacy_read_time: Duration,
    /// What version 1 nodes get when the list is larger than that.
    #[arg(long, value_enum, env = "DISTRIBUTOR_OVERSIZED_LIST", default_value_t)]
    oversized_list: OversizedList,
    /// Form of the log on standard error.
    #[arg(long, value_enum, env = "DISTRIBUTOR_LOG_FORMAT", default_value_t)]
    log_format: LogFormat,
    /// off, error, warn, info, debug, trace, or levels per module.
    #[arg(long, value_name = "LEVEL", env = "DISTRIBUTOR_LOG_LEVEL", default_value = "info")]
    log_level: LogLevel,
}

impl Args {
    fn config(&self) -> Config {
        let registration = RegistrationLimits { max_urls: self.max_urls, max_url_bytes: self.max_url_bytes };
        Config {
            max_connections: connections_within(raise_open_files(), self.max_connections),
            max_frame_bytes: self.max_frame_bytes,
            max_json_depth: self.max_json_depth,
            registration,
            frame_timeout: self.frame_timeout,
            write_timeout: self.write_timeout,
            legacy_list_bytes: self.legacy_list_bytes,
            legacy_read_time: self.legacy_read_time,
            oversized_list: self.oversized_list,
            max_strikes: self.max_strikes,
            max_blank_frames_per_second: self.max_blank_frames,
        }
    }
}

/// Runs the program: reads the command line, listens, serves until a signal.
pub fn main() -> ExitCode {
    let args = Args::parse();
    init_log(args.log_format, &args.log_level);
    // One thread: telling N nodes is N small writes, which two threads would only fight over.
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit_code(&error),
    };
    runtime.block_on(async {
        let listeners = match bind_all(&args.listen) {
            Ok(listeners) => listeners,
            Err(error) => return exit_code(&error),
        };
        match daemon::stop_on_signals() {
            Ok(stop) => serve(listeners, args.config(), stop).await,
            Err(error) => return exit_code(&error),
        }
        ExitCode::SUCCESS
    })
}

/// Stays below the limit of open files, so that a full house is answered by closing and not by errors of accept.
fn connections_within(open_files: u64, wanted: usize) -> usize {
    let room = usize::try_from(open_files.saturating_sub(OTHER_DESCRIPTORS)).unwrap_or(usize::MAX).max(1);
    if room < wanted {
        warn!(
            "only {open_files} open files are allowed: at most {room} connections instead of {wanted}; raise it with ulimit -n or LimitNOFILE"
        );
    }
    wanted.min(room)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn defaults_of_the_command_line_are_those_of_the_library() {
        Args::command().debug_assert();
        let args = Args::parse_from(["distributor"]);
        assert_eq!(format!("{:?}", args.config()), format!("{:?}", Config::default()));
    }

    #[test]
    fn connections_stay_below_the_limit_of_open_files() {
        for (open_files, wanted, expected) in [(u64::MAX, 10_000, 10_000), (1024, 10_000, 992), (10, 10_000, 1)] {
            assert_eq!(connections_within(open_files, wanted), expected);
        }
    }
}
