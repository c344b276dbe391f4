//! The settings of the gateway, each written once, with its reason.
//!
//! It must not know connections or requests. Of the other folders it must import only `observe` and
//! `route`.

mod conflicts;
pub(crate) mod defaults;
pub(crate) mod file;
mod fixed_server;
mod old_nodes;
pub(crate) mod settings;
pub(crate) mod settings_error;
pub(crate) mod snapshot;
mod values;

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use node_sdk::gateway::UnstatedRoutes;
use protocol::HostPort;

use self::settings::host_and_port;
use self::values::long_enough;
use crate::observe::access_log::AccessLogFormat;
use crate::route::access::RouteAccess;
use crate::route::cors::Cors;
use crate::route::limits::RouteLimits;
use crate::route::params::ParamsTemplate;

pub use self::fixed_server::{FixedAddress, FixedServer};
pub use self::old_nodes::OldNodesPublic;
pub use node_sdk::Balance;

net::settings! {
    /// Where the Distributor is, limits and time-outs.
    #[derive(Clone, Debug)]
    pub struct Config {
        /// Where the Distributor is, `host:port`.
        pub distributor: String = "127.0.0.1:9000".to_owned(), "ADDRESS", where host_and_port;
        /// The address of this gateway that nodes are told, if it differs from the address that the
        /// Distributor sees, or from the port that it listens on.
        pub advertise: Option<HostPort> = None, like "gateway.example:8000";
        /// File that keeps the known nodes, so that the next start can serve before it reaches the
        /// Distributor.
        pub cache: Option<PathBuf> = None, like "/var/lib/gateway/nodes";
        /// How long a request may take from its last header byte to its answer.
        pub request_timeout: Duration = Duration::from_secs(10), where MIN_TIME..=MAX_TIME;
        /// Bytes of one request body.
        ///
        /// Version 1 nodes accept less than 64 KiB in any case.
        pub max_body_bytes: usize = 1 << 20, "BYTES";
        /// Bytes of bodies for nodes and of their answers that are held for all clients together,
        /// beyond 16 KiB for each connection; one client has at most as much as is free.
        ///
        /// With the own bytes of ten thousand connections, the process stays below a gigabyte by
        /// default.
        pub max_held_bytes: usize = 192 << 20, "BYTES", where 1..=usize::MAX;
        /// Clients at a time; further ones are closed at once.
        pub max_connections: usize = 10_000, where 1..=usize::MAX;
        /// How long the head of a request may take from its first byte to its last.
        pub header_timeout: Duration = Duration::from_secs(10), where MIN_TIME..=MAX_TIME;
        /// How long a TLS handshake may take.
        pub handshake_timeout: Duration = Duration::from_secs(5), where MIN_TIME..=MAX_TIME;
        /// Accept HTTP/2 without TLS, too, from clients that begin their connection with it.
        pub h2c: bool = false;
        /// How long a server may pause in a response that it has begun.
        pub response_idle_timeout: Duration = Duration::from_secs(60), where MIN_TIME..=MAX_TIME;
        /// How long a client may be idle between requests.
        pub idle_timeout: Duration = Duration::from_secs(60), where MIN_TIME..=MAX_TIME;
        /// How long a client may read nothing of its response.
        pub write_timeout: Duration = Duration::from_secs(30), where MIN_TIME..=MAX_TIME;
        /// How long requests in flight may take to finish when the gateway stops.
        pub drain_timeout: Duration = Duration::from_secs(30);
        /// Answer unknown routes as the version 1 gateway did: 404 with an empty body.
        pub empty_404: bool = false;
        /// Whether clients can call the routes of nodes that do not state which are public, as
        /// nodes of version 1 and of early releases; or a list of those that they can call.
        pub old_nodes_public: OldNodesPublic = OldNodesPublic(UnstatedRoutes::Public);
        /// How each request is logged on standard output.
        pub access_log: AccessLogFormat = AccessLogFormat::Off;
        /// Log the query of a request, which may hold secrets, with its path.
        pub access_log_query: bool = true;
        /// Balancers whose connections begin with the PROXY protocol.
        ///
        /// Their connections must begin with it, and no others may.
        @File pub proxy_protocol: Vec<IpNet> = Vec::new();
        /// Proxies that are trusted to state scheme, host and client of a request.
        ///
        /// Their X-Forwarded and Forwarded fields are extended, not replaced.
        @File pub trusted: Vec<IpNet> = Vec::new();
        /// Signs cookies; 16 characters or more. Gateways with the same one accept each other's
        /// cookies; without one, a gateway does not accept the cookies of an earlier process.
        @File pub cookie_secret: Option<String> = None, where long_enough, like "the output of: openssl rand -hex 32";
    }
    also {
        /// Certificates for clients that speak TLS; the first is for clients that name no host.
        pub certificates: Vec<CertificateFiles> = Vec::new();
        /// Clients without TLS are redirected to this port, where TLS is spoken.
        pub redirect: Option<u16> = None;
        /// The rules of certain paths.
        pub routes: Vec<RouteConfig> = Vec::new();
    }
}

/// A time-out of zero would end everything at once.
pub(crate) const MIN_TIME: Duration = Duration::from_millis(1);
/// The longest time-out.
pub(crate) const MAX_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// A certificate and its key, in PEM form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, followed by its chain.
    pub chain: PathBuf,
    /// The private key of the certificate.
    pub key: PathBuf,
}

/// The rules for requests below some paths, for nodes that register them and for servers that do
/// not register.
#[derive(Clone, Debug)]
pub struct RouteConfig {
    /// Paths, with all paths below them; the longest that matches a request counts.
    pub prefixes: Vec<String>,
    /// Servers that speak HTTP and do not register.
    pub servers: Vec<FixedServer>,
    /// Whether requests are sent to servers without the prefix.
    pub strip: bool,
    /// Whether servers see the path as the client has sent it, and not its normal form. A path with
    /// `..` in it is refused.
    pub raw_path: bool,
    /// Whether redirects of servers are put below the prefix: for servers that do not see the
    /// prefix and do not know it.
    pub rewrite_location: bool,
    /// Whether the paths of cookies that servers set are put below the prefix, for the same
    /// servers.
    pub rewrite_cookies: bool,
    /// Whether servers get fields whose names contain `_`, which some servers confuse with others.
    pub underscores: bool,
    /// Which requests are answered, by nodes and by servers; all unless given.
    pub access: Option<RouteAccess>,
    /// Which pages of other origins may read the answers, and what they may send. Unless given,
    /// nodes and servers say it.
    pub cors: Option<Cors>,
    /// Whether nodes are called with packets below these paths. Otherwise requests go to servers
    /// only.
    pub nodes: bool,
    /// The `params` of calls, for nodes that speak another dialect.
    pub params: Option<ParamsTemplate>,
    /// Whether bodies for nodes are read whatever media type they have, as gateways of version 1
    /// did: as JSON if they are a JSON object, and otherwise as a form.
    pub any_body: bool,
    /// The cookie of [`Sticky::Cookie`]. Unless given, each prefix has a name of its own.
    pub cookie: Option<String>,
    /// How one of several is picked; unless given, [`Balance::RoundRobin`] of servers, and
    /// [`Balance::PowerOfTwo`] of nodes. Over HTTP, connections that are upgraded to another
    /// protocol go to the server with the fewest, if others go in turn.
    pub balance: Option<Balance>,
    /// How a client is kept with one of them.
    pub sticky: Option<Sticky>,
    /// How long a request may take; as `request_timeout` unless given.
    pub timeout: Option<Duration>,
    /// How long one server may take to begin its answer, before a repeatable request is tried at
    /// another.
    pub try_timeout: Option<Duration>,
    /// Requests that one server is sent at a time; others wait.
    pub max_connections: usize,
    /// Connections that are upgraded to another protocol, such as WebSockets, that one server has
    /// at a time.
    pub max_tunnels: usize,
    /// Percent of these that one client alone may have: one address, or one /64 of IPv6. With more
    /// clients, each may have the same multiple of the free ones, so that some are always left for
    /// the next.
    pub client_share: u8,
    /// How long an idle tunnel may stay.
    pub tunnel_idle_timeout: Duration,
    /// How long requests wait for a permit. A request that would wait for longer is refused at
    /// once.
    pub queue_timeout: Duration,
    /// How servers are checked between requests.
    pub check: Option<Check>,
    /// The url at which nodes that offer it are checked, such as `GET/health`.
    pub node_check: Option<String>,
    /// How often either check is made; every 10 ms at most.
    pub check_every: Duration,
    /// The limits of requests.
    pub limits: RouteLimits,
}

/// How a client is kept with one of several servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sticky {
    /// The client's address: all requests from one address go to one server, while it exists and is
    /// not busier than others.
    Client,
    /// A cookie that the first response sets. It applies to servers only.
    Cookie,
}

/// How a server is found to be alive.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Check {
    /// The server accepts a connection.
    Tcp,
    /// The server answers `GET` of a path with a status below 400.
    Http(String),
}

impl RouteConfig {
    /// The default of requests that a server is sent at a time.
    pub const MAX_CONNECTIONS: usize = 1024;

    /// Percent of a server's permits that one client alone may have. The rest is enough for short
    /// requests of others, and a load test from one address does not notice it.
    pub const CLIENT_SHARE: u8 = 90;

    /// The shortest time between two checks of one server: a hundred a second do not burden it.
    pub const MIN_CHECK_PERIOD: Duration = Duration::from_millis(10);

    /// A route with the defaults.
    pub fn new(prefixes: Vec<String>) -> Self {
        Self {
            prefixes,
            servers: Vec::new(),
            strip: false,
            raw_path: false,
            rewrite_location: false,
            rewrite_cookies: false,
            underscores: false,
            access: None,
            cors: None,
            nodes: true,
            params: None,
            any_body: false,
            cookie: None,
            balance: None,
            sticky: None,
            timeout: None,
            try_timeout: None,
            max_connections: Self::MAX_CONNECTIONS,
            max_tunnels: Self::MAX_CONNECTIONS,
            client_share: Self::CLIENT_SHARE,
            tunnel_idle_timeout: Duration::from_secs(600),
            queue_timeout: Duration::from_secs(1),
            check: None,
            node_check: None,
            check_every: Duration::from_secs(2),
            limits: RouteLimits::default(),
        }
    }
}
