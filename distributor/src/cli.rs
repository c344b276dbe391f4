//! The command line of the `distributor` program.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use net::{LogFormat, LogLevel, bind, bind_all, duration, exit_code, init_log, listen_address, raise_open_files};
use protocol::RegistrationLimits;
use tokio::runtime;
use tracing::warn;

use crate::why::why;
use crate::{Config, OversizedList, serve_with_admin};

/// Descriptors that are not connections: listeners, log, epoll, and some to spare.
const OTHER_DESCRIPTORS: u64 = 32;
/// How long stopping may take: many times what it does, which is 0.2 s.
const LONGEST_STOP: Duration = Duration::from_secs(5);

/// Keeps the list of live nodes and tells every node of each join and leave.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 stopped by a signal, 2 bad command line, 3 port in use, 4 cannot listen, 1 other."
)]
struct Args {
    #[command(subcommand)]
    command: Option<CliCommand>,
    /// Address to listen on; may be given several times. [::] takes IPv4 as well, unless an IPv4
    /// address of that port is given too.
    #[arg(long, value_name = "ADDRESS", env = "DISTRIBUTOR_LISTEN", value_delimiter = ',', default_value = "127.0.0.1:9000", value_parser = listen_address)]
    listen: Vec<SocketAddr>,
    /// Address for operators: /health, /metrics. Without it there is none.
    #[arg(long, value_name = "ADDRESS", env = "DISTRIBUTOR_ADMIN", value_parser = listen_address)]
    admin: Option<SocketAddr>,
    /// Connections at a time; further ones are closed at once.
    #[arg(long, value_name = "N", env = "DISTRIBUTOR_MAX_CONNECTIONS", default_value_t = 10_000)]
    max_connections: usize,
    /// Connections at a time from one address, this machine's own excepted.
    #[arg(long, value_name = "N", env = "DISTRIBUTOR_MAX_CONNECTIONS_PER_ADDRESS", default_value_t = 256)]
    max_connections_per_address: usize,
    /// Bytes of all entries of the list together; a registration that would exceed it is refused.
    #[arg(long, value_name = "BYTES", env = "DISTRIBUTOR_MAX_LIST_BYTES", default_value_t = 8_388_608)]
    max_list_bytes: usize,
    /// Bytes, all together, of what peers have been sent and have not read.
    #[arg(long, value_name = "BYTES", env = "DISTRIBUTOR_MAX_UNREAD_BYTES", default_value_t = 128 << 20)]
    max_unread_bytes: usize,
    /// Bytes, all together, of packets that have begun to come and not ended.
    #[arg(long, value_name = "BYTES", env = "DISTRIBUTOR_MAX_INCOMING_BYTES", default_value_t = 64 << 20)]
    max_incoming_bytes: usize,
    /// Packets a second from one connection; what comes faster waits.
    #[arg(long, value_name = "N", env = "DISTRIBUTOR_PACKETS_PER_SECOND", default_value_t = 1000)]
    packets_per_second: u32,
    /// Packets of one connection that are handled at once.
    #[arg(long, value_name = "N", env = "DISTRIBUTOR_PACKET_BURST", default_value_t = 5000)]
    packet_burst: u32,
    /// New nodes a second; others are told when to come again.
    #[arg(long, value_name = "N", env = "DISTRIBUTOR_REGISTRATIONS_PER_SECOND", default_value_t = 5000)]
    registrations_per_second: u32,
    /// New nodes that are taken at once.
    #[arg(long, value_name = "N", env = "DISTRIBUTOR_REGISTRATION_BURST", default_value_t = 2000)]
    registration_burst: u32,
    /// How often a second one node's changes of its registration are told.
    #[arg(long, value_name = "N", env = "DISTRIBUTOR_UPDATES_PER_SECOND", default_value_t = 1)]
    updates_per_second: u32,
    /// Changes of one node's registration that are told at once.
    #[arg(long, value_name = "N", env = "DISTRIBUTOR_UPDATE_BURST", default_value_t = 10)]
    update_burst: u32,
    /// Pings a second to all nodes together; with more nodes than this each is asked less than once
    /// a second.
    #[arg(long, value_name = "N", env = "DISTRIBUTOR_PINGS_PER_SECOND", default_value_t = 500)]
    pings_per_second: u32,
    /// After this time a peer that has not registered is sent the list.
    #[arg(long, value_name = "TIME", env = "DISTRIBUTOR_GREET_AFTER", default_value = "100ms", value_parser = duration)]
    greet_after: Duration,
    /// How long a version 2 peer may stay without registering.
    #[arg(long, value_name = "TIME", env = "DISTRIBUTOR_REGISTER_TIMEOUT", default_value = "5s", value_parser = duration)]
    register_timeout: Duration,
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
    /// After this time without a list, version 1 nodes on other machines are assumed to have read
    /// everything.
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

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Asks a running Distributor what happened to a node: when it joined and left, and why.
    Why {
        /// Its name, address (host:port) or instance id.
        node: String,
        /// Where the Distributor is.
        #[arg(long, value_name = "ADDRESS", env = "DISTRIBUTOR", default_value = "127.0.0.1:9000")]
        at: String,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
}

impl Args {
    fn config(&self) -> Config {
        let registration = RegistrationLimits { max_urls: self.max_urls, max_url_bytes: self.max_url_bytes };
        Config {
            max_connections: connections_within(raise_open_files(), self.max_connections),
            max_connections_per_address: self.max_connections_per_address,
            max_list_bytes: self.max_list_bytes,
            max_unread_bytes: self.max_unread_bytes,
            max_incoming_bytes: self.max_incoming_bytes,
            packets_per_second: self.packets_per_second,
            packet_burst: self.packet_burst,
            registrations_per_second: self.registrations_per_second,
            registration_burst: self.registration_burst,
            updates_per_second: self.updates_per_second,
            update_burst: self.update_burst,
            pings_per_second: self.pings_per_second,
            greet_after: self.greet_after,
            register_timeout: self.register_timeout,
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
    let _log = init_log(args.log_format, &args.log_level);
    if let Some(CliCommand::Why { node, at, json }) = &args.command {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        return match runtime.and_then(|runtime| runtime.block_on(why(at, node, *json))) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => exit_code(&error),
        };
    }
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
        let admin = match args.admin.map(bind).transpose() {
            Ok(admin) => admin,
            Err(error) => return exit_code(&error),
        };
        match net::stop_on_signals(|| LONGEST_STOP) {
            Ok(stop) => serve_with_admin(listeners, admin, args.config(), stop).await,
            Err(error) => return exit_code(&error),
        }
        ExitCode::SUCCESS
    })
}

/// Stays below the limit of open files, so that a full house is answered by closing and not by
/// errors of accept.
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
