//! Every limit of the Distributor, with its reason: its settings, each written once.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use net::{LogFormat, LogLevel};
use protocol::{LEGACY_READ_BYTES, RegistrationLimits};

net::settings! {
    /// Limits and time-outs. The defaults hold for ten thousand nodes.
    #[derive(Clone, Debug)]
    pub struct Config {
        /// Connections at a time; further ones are closed at once.
        ///
        /// Each costs a descriptor and a few kilobytes.
        pub max_connections: usize = 10_000, where 1..=usize::MAX;
        /// Connections at a time from one address, this machine's own excepted.
        ///
        /// A host that runs wild leaves room for the others.
        pub max_connections_per_address: usize = 256, where 1..=usize::MAX;
        /// Bytes of all entries of the list together; a registration that would exceed it is
        /// refused.
        ///
        /// Nodes accept twice as much.
        pub max_list_bytes: usize = 8 << 20, "BYTES", where 1..=usize::MAX;
        /// Bytes of packets that peers have not read yet, for all peers together.
        ///
        /// Beyond the limit, packets for a single peer wait; beyond half of it, peers that read a
        /// large packet slowly are cut. A packet for many peers counts once.
        pub max_unread_bytes: usize = 128 << 20, "BYTES", where 1..=usize::MAX;
        /// Bytes of partly received packets, for all connections together.
        ///
        /// Each packet counts as the largest one. Beyond the limit, connections wait in a queue and
        /// are not read from; beyond half of it, a packet has two seconds, or less when many wait.
        pub max_incoming_bytes: usize = 64 << 20, "BYTES", where 1..=usize::MAX;
        /// Packets a second from one connection, after a burst; further ones wait.
        pub packets_per_second: u32 = 1000, where 1..=u32::MAX;
        /// Packets of one connection that are handled at once.
        pub packet_burst: u32 = 5000, where 1..=u32::MAX;
        /// New nodes a second, after a burst; others are told when to register again.
        pub registrations_per_second: u32 = 5000, where 1..=u32::MAX;
        /// New nodes that are accepted at once.
        pub registration_burst: u32 = 2000, where 1..=u32::MAX;
        /// Changes of one node's registration that are passed on each second, after a burst.
        ///
        /// The last change is always passed on.
        pub updates_per_second: u32 = 1, where 1..=u32::MAX;
        /// Changes of one node's registration that are passed on at once.
        pub update_burst: u32 = 10, where 1..=u32::MAX;
        /// Pings a second to all nodes together; with more nodes than this, each is pinged less
        /// than once a second.
        pub pings_per_second: u32 = 500, where 1..=u32::MAX;
        /// How long a peer may take to register before it is sent the list.
        ///
        /// Most peers register at once, and need no greeting.
        pub greet_after: Duration = Duration::from_millis(100);
        /// How long a version 2 peer may stay without registering.
        ///
        /// Silent version 1 peers may stay for ever.
        pub register_timeout: Duration = Duration::from_secs(5), where MIN_TIME..=MAX_TIME;
        /// Bytes of one packet from a node.
        ///
        /// A registration of 256 urls has about 20 kB.
        pub max_frame_bytes: usize = 64 * 1024, "BYTES", where 1..=usize::MAX;
        /// How deep a packet may be nested.
        pub max_json_depth: usize = 32, where 1..=usize::MAX;
        /// Nodes up to which each is told of all others. Beyond them, a node that can ask is told
        /// of what it uses.
        ///
        /// It is decided when a node registers, and stays so while it is connected.
        pub tell_all_up_to: usize = 1000;
        /// Urls of one node.
        pub max_urls: usize = RegistrationLimits::default().max_urls;
        /// Bytes of one url.
        pub max_url_bytes: usize = RegistrationLimits::default().max_url_bytes, "BYTES", where 1..=usize::MAX;
        /// Broken packets after which a connection is cut, including the last of them.
        pub max_strikes: u32 = 3;
        /// Empty packets a second after which a connection is cut.
        ///
        /// Such packets are legal; a flood of them is not.
        pub max_blank_frames: u32 = 1000;
        /// How long a packet may take from its first byte to its last, however much has arrived.
        pub frame_timeout: Duration = Duration::from_secs(10), where MIN_TIME..=MAX_TIME;
        /// How long a node may read nothing before it is cut.
        pub write_timeout: Duration = Duration::from_secs(10), where MIN_TIME..=MAX_TIME;
        /// Bytes of a list that version 1 nodes can read.
        ///
        /// They are also assumed to have this many bytes unread: more would crash their readers.
        pub legacy_list_bytes: usize = LEGACY_READ_BYTES, "BYTES", where 1..=usize::MAX;
        /// After this time without a list, version 1 nodes on other machines are assumed to have
        /// read everything.
        ///
        /// For nodes on this machine, the system shows it.
        pub legacy_read_time: Duration = Duration::from_millis(500);
        /// What version 1 nodes get when the list is larger than `legacy_list_bytes`.
        pub oversized_list: OversizedList = OversizedList::default();
        /// Which urls version 1 nodes are told of, if a node says which of its routes are public:
        /// the public ones, or all.
        ///
        /// A version 1 gateway takes every url that it is told of for public. Services that call
        /// internal routes need all.
        pub tell_old_peers: ToldToOldPeers = ToldToOldPeers::default();
    }
}

net::settings! {
    /// Settings that only the program needs.
    #[derive(Debug)]
    pub(crate) struct ProcessSettings {
        /// Address to listen on; may be given several times, or with commas. [::] accepts IPv4 as
        /// well, unless an IPv4 address with that port is given too.
        pub(crate) listen: Vec<SocketAddr> = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 9000))];
        /// Address for operators: /health and /metrics. None unless given.
        pub(crate) admin: Option<SocketAddr> = None, like "127.0.0.1:9001";
        /// Form of the log on standard error.
        pub(crate) log_format: LogFormat = LogFormat::default();
        /// off, error, warn, info, debug, trace, or levels per module.
        pub(crate) log_level: LogLevel = LogLevel::default();
    }
}

/// A time-out of zero would end everything at once.
const MIN_TIME: Duration = Duration::from_millis(1);
/// The longest time-out.
const MAX_TIME: Duration = Duration::from_secs(24 * 60 * 60);

impl Config {
    /// What one registration may hold.
    pub(crate) fn registration_limits(&self) -> RegistrationLimits {
        RegistrationLimits { max_urls: self.max_urls, max_url_bytes: self.max_url_bytes }
    }
}

/// What version 1 peers get when the list has outgrown what they can read (about 600 nodes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OversizedList {
    /// As many nodes as fit, at least one of each name first: the peers stay alive, but do not see
    /// all nodes.
    #[default]
    Truncate,
    /// The whole list: it crashes readers of version 1, but not patched ones.
    Send,
}
net::word_setting!(OversizedList, "truncate|send");

/// What version 1 peers are told of a node that says which of its routes are public.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ToldToOldPeers {
    /// Its public urls: a version 1 gateway answers clients with all that it is told of.
    #[default]
    Public,
    /// All of its urls, for version 1 services that call internal routes.
    All,
}
net::word_setting!(ToldToOldPeers, "public|all");
