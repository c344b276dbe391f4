//! Every limit of the Distributor, with its reason.

use std::time::Duration;

use protocol::{LEGACY_READ_BYTES, RegistrationLimits};

/// Limits and time-outs. The defaults hold for ten thousand nodes.
#[derive(Clone, Debug)]
pub struct Config {
    /// Connections at a time; further ones are closed at once. Each costs a descriptor and a few
    /// kilobytes.
    pub max_connections: usize,
    /// Connections at a time from one address, this machine's own excepted: one host that runs wild
    /// leaves room for the others.
    pub max_connections_per_address: usize,
    /// Bytes of all entries of the list together; a registration that would exceed it is refused.
    /// Nodes accept twice as much.
    pub max_list_bytes: usize,
    /// Bytes of packets, all together, that peers have been given and have not read; what only one
    /// peer is told waits beyond it, and beyond half of it peers that take longer than a moment for
    /// a large packet are cut. What many are told counts once.
    pub max_unread_bytes: usize,
    /// Bytes of packets, all together, that have begun to come and not ended, each counted as the
    /// largest; beyond it connections are not read from until it is their turn, and beyond half of
    /// it a packet has two seconds, or less when many wait.
    pub max_incoming_bytes: usize,
    /// Packets a second from one connection, after a burst; what comes faster waits in its socket.
    pub packets_per_second: u32,
    /// Packets of one connection that are handled at once.
    pub packet_burst: u32,
    /// New version 2 nodes a second, after a burst; others are told when to come again.
    pub registrations_per_second: u32,
    /// New version 2 nodes that are taken at once.
    pub registration_burst: u32,
    /// Times a second that one node's changes of its registration are told, after a burst; the last
    /// of them is always told.
    pub updates_per_second: u32,
    /// Changes of one node's registration that are told at once.
    pub update_burst: u32,
    /// Pings a second to all version 2 nodes together. With more nodes than this each is asked less
    /// than once a second.
    pub pings_per_second: u32,
    /// A peer that has not registered is greeted with the list after this time: most register at
    /// once, and need no greeting.
    pub greet_after: Duration,
    /// How long a version 2 peer may stay without registering. Old silent peers may for ever.
    pub register_timeout: Duration,
    /// Bytes of one packet from a node. A registration of 256 urls has about 20 kB.
    pub max_frame_bytes: usize,
    /// How deep arrays and objects of a packet may be nested.
    pub max_json_depth: usize,
    /// What one registration may hold.
    pub registration: RegistrationLimits,
    /// Broken packets after which a connection is cut; the last of them included.
    pub max_strikes: u32,
    /// Empty frames per second after which a connection is cut: they are legal, a flood of them is
    /// not.
    pub max_blank_frames_per_second: u32,
    /// How long a packet may take from its first byte to its last, whatever progress it makes.
    pub frame_timeout: Duration,
    /// How long a peer may take none of what is written to it before it is cut.
    pub write_timeout: Duration,
    /// Most bytes of a list to a version 1 peer, and most bytes it is assumed to have unread: its
    /// reader dies of more.
    pub legacy_list_bytes: usize,
    /// After this time without a write, a version 1 peer on another machine is assumed to have read
    /// everything; of one on this machine the system tells.
    pub legacy_read_time: Duration,
    /// What version 1 peers get when the list outgrows `legacy_list_bytes`.
    pub oversized_list: OversizedList,
}

/// What version 1 peers get when the list has outgrown what they can read (about 600 nodes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OversizedList {
    /// As many nodes as fit, at least one of each name first: they live, but do not see all nodes.
    #[default]
    Truncate,
    /// The whole list: readers of the old code die of it, patched ones do not.
    Send,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_connections_per_address: 256,
            max_list_bytes: 8 << 20,
            max_unread_bytes: 128 << 20,
            max_incoming_bytes: 64 << 20,
            packets_per_second: 1000,
            packet_burst: 5000,
            registrations_per_second: 5000,
            registration_burst: 2000,
            updates_per_second: 1,
            update_burst: 10,
            pings_per_second: 500,
            greet_after: Duration::from_millis(100),
            register_timeout: Duration::from_secs(5),
            max_frame_bytes: 64 * 1024,
            max_json_depth: 32,
            registration: RegistrationLimits::default(),
            max_strikes: 3,
            max_blank_frames_per_second: 1000,
            frame_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(10),
            legacy_list_bytes: LEGACY_READ_BYTES,
            legacy_read_time: Duration::from_millis(500),
            oversized_list: OversizedList::default(),
        }
    }
}
