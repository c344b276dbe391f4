//! The address of a server.

use std::fmt::{self, Display};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::sleep;

use crate::address::unix_path::UnixPath;
use crate::socket::Socket;

/// The wait before another attempt at a server whose listen backlog is full. It doubles with each
/// attempt, up to the longest wait. A server that runs accepts a connection in less time.
const FIRST_LISTEN_BACKLOG_WAIT: Duration = Duration::from_millis(1);
const MAX_LISTEN_BACKLOG_WAIT: Duration = Duration::from_millis(32);
/// Attempts at a server whose listen backlog stays full. They take about a second, which is the
/// time after which TCP makes its second attempt.
const MAX_LISTEN_BACKLOG_ATTEMPTS: u32 = 36;

/// The address of a server, by which it is known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServerAddress {
    /// The server listens at a host and port.
    Tcp(SocketAddr),
    /// The server listens at a Unix socket of this machine.
    Unix(UnixPath),
}

impl ServerAddress {
    /// The host and port; `None` for a Unix socket.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// The value of `Host` in requests whose client names none: `localhost` for a Unix socket.
    pub fn host(&self) -> impl Display + '_ {
        fmt::from_fn(move |f| match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(_) => f.write_str("localhost"),
        })
    }

    /// Connects. A Unix socket with a full listen backlog is asked again for about a second: over
    /// TCP the system does so. Cancel safe.
    ///
    /// # Errors The errors of the system; [`WouldBlock`](io::ErrorKind::WouldBlock) if the listen
    /// backlog stays full.
    pub async fn connect(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(address) => TcpStream::connect(address).await.map(Socket::Tcp),
            Self::Unix(path) => connect_unix(path).await.map(Socket::Unix),
        }
    }
}

async fn connect_unix(path: &UnixPath) -> io::Result<UnixStream> {
    let mut wait = FIRST_LISTEN_BACKLOG_WAIT;
    for _ in 1..MAX_LISTEN_BACKLOG_ATTEMPTS {
        match UnixStream::connect(path.as_path()).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(wait).await,
            connected => return connected,
        }
        wait = MAX_LISTEN_BACKLOG_WAIT.min(wait * 2);
    }
    UnixStream::connect(path.as_path()).await
}

impl From<SocketAddr> for ServerAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    use tokio::time::Instant;

    use super::*;

    /// A path in a folder of this test's own, which is removed with it.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            let folder = std::env::temp_dir().join(format!("소켓-{:032x}", crate::unique_id()));
            std::fs::create_dir(&folder).unwrap();
            Self(folder)
        }

        fn path(&self, name: &str) -> UnixPath {
            format!("unix:{}/{name}", self.0.display()).parse().unwrap()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn an_address_is_shown_as_it_is_written() {
        #[track_caller]
        fn check(address: &ServerAddress, shown: &str, host: &str) {
            assert_eq!((address.to_string(), address.host().to_string()), (shown.to_owned(), host.to_owned()));
        }
        check(&SocketAddr::from(([10, 0, 0, 1], 80)).into(), "10.0.0.1:80", "10.0.0.1:80");
        check(&ServerAddress::Unix("unix:/run/앱.sock".parse().unwrap()), "unix:/run/앱.sock", "localhost");
    }

    #[tokio::test]
    async fn what_the_system_says_of_a_path_is_the_error() {
        let folder = Folder::new();
        let check = async |name: &str, expected: io::ErrorKind| {
            let error = ServerAddress::Unix(folder.path(name)).connect().await.unwrap_err();
            assert_eq!(error.kind(), expected, "{name}");
        };
        check("missing.sock", io::ErrorKind::NotFound).await;
        std::fs::write(folder.path("file").as_path(), "").unwrap();
        check("file", io::ErrorKind::ConnectionRefused).await;
        check("file/app.sock", io::ErrorKind::NotADirectory).await;
        drop(UnixListener::bind(folder.path("left.sock").as_path()).unwrap());
        check("left.sock", io::ErrorKind::ConnectionRefused).await;
    }

    #[tokio::test]
    async fn a_full_backlog_is_waited_for() {
        let folder = Folder::new();
        let path = folder.path("app.sock");
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        socket.bind(&socket2::SockAddr::unix(path.as_path()).unwrap()).unwrap();
        socket.listen(0).unwrap();
        let address = ServerAddress::Unix(path.clone());
        let first = address.connect().await.unwrap();
        let full = UnixStream::connect(path.as_path()).await.unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock, "the system itself does not wait");
        let (connected, _accepted) = tokio::join!(address.connect(), async {
            // Not before the other one has been refused once.
            tokio::task::yield_now().await;
            (socket.accept().unwrap(), first)
        });
        let held = connected.unwrap();
        tokio::time::pause();
        let started = Instant::now();
        let error = address.connect().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let waited = started.elapsed();
        assert!(waited > Duration::from_millis(900) && waited < Duration::from_millis(1100), "{waited:?}");
        drop(held);
    }
}
