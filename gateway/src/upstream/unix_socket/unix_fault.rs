//! Faults of the Unix socket of a server, in words for the person who can mend them.

use std::fmt;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use net::UnixPath;
use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;
use rustix::process::geteuid;

/// Why no connection can be made at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UnixFault {
    /// There is no file.
    Missing,
    /// The file is not a socket.
    NoSocket,
    /// The permissions of the file, or of a folder above it, do not allow it: who needs which
    /// right.
    Denied(String),
    /// The permissions allow it, and the system does not.
    Forbidden,
    /// The process that made the socket has ended.
    NoListener,
    /// The socket is not one of streams.
    NoStream,
    /// The backlog of the server stays full.
    Full,
    /// Another error of the system.
    Other(String),
}

/// The identity of the file at a path. A server that is started anew makes another file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SocketFile {
    device: u64,
    inode: u64,
    /// When it was made, as nothing changes a socket's file: an inode may be used again.
    made: (i64, i64),
}

impl SocketFile {
    /// The file at a path, if it is a socket that this process may connect to. Asks the system,
    /// which takes about a microsecond.
    ///
    /// # Errors
    /// The fault that the file shows. Without one, it may still be that no server listens.
    pub(crate) fn at(path: &UnixPath) -> Result<Self, UnixFault> {
        let path = path.as_path();
        let file = std::fs::metadata(path).map_err(|error| UnixFault::of_error(path, &error))?;
        if !file.file_type().is_socket() {
            return Err(UnixFault::NoSocket);
        }
        if !has_access(path, Access::WRITE_OK) {
            return Err(denied(path));
        }
        Ok(Self { device: file.dev(), inode: file.ino(), made: (file.mtime(), file.mtime_nsec()) })
    }
}

impl UnixFault {
    /// The fault behind an error of a connection, or of the file.
    pub(crate) fn of_error(path: &Path, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            io::ErrorKind::PermissionDenied => denied(path),
            io::ErrorKind::WouldBlock => Self::Full,
            io::ErrorKind::ConnectionRefused => match std::fs::metadata(path) {
                Ok(file) if !file.file_type().is_socket() => Self::NoSocket,
                Ok(_) | Err(_) => Self::NoListener,
            },
            _ if error.raw_os_error() == Some(Errno::PROTOTYPE.raw_os_error()) => Self::NoStream,
            _ => Self::Other(error.to_string()),
        }
    }

    /// Whether the file shows the fault. Then it also shows the end of the fault.
    pub(crate) fn is_of_file(&self) -> bool {
        match self {
            Self::Missing | Self::NoSocket | Self::Denied(_) => true,
            Self::Forbidden | Self::NoListener | Self::NoStream | Self::Full | Self::Other(_) => false,
        }
    }
}

/// The fault of a missing right.
fn denied(path: &Path) -> UnixFault {
    let user = geteuid().as_raw();
    let mut folders: Vec<&Path> = path.ancestors().skip(1).collect();
    folders.reverse();
    if let Some(closed) = folders.into_iter().find(|folder| !has_access(folder, Access::EXEC_OK)) {
        return UnixFault::Denied(format!("user {user} needs the right to enter the folder {}", closed.display()));
    }
    match has_access(path, Access::WRITE_OK) {
        true => UnixFault::Forbidden,
        false => UnixFault::Denied(format!("user {user} needs the right to write to {}", path.display())),
    }
}

/// Whether the permissions allow it. Where the system does not say, as in containers that know
/// fewer system calls, they count as if they did: the connection will show it.
fn has_access(path: &Path, access: Access) -> bool {
    accessat(CWD, path, access, AtFlags::EACCESS) != Err(Errno::ACCESS)
}

impl fmt::Display for UnixFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("there is no file; start the server, or correct the path"),
            Self::NoSocket => {
                f.write_str("the file is not a socket; remove it and start the server, or correct the path")
            }
            Self::Denied(right) => write!(f, "{right}; chmod or chgrp gives it, or a group of both processes"),
            Self::Forbidden => {
                f.write_str("the system denies it although the permissions allow it; see SELinux or AppArmor")
            }
            Self::NoListener => f.write_str("no process listens at the socket; start the server"),
            Self::NoStream => f.write_str("the socket is not one of streams, which HTTP needs; correct the path"),
            Self::Full => {
                f.write_str("the server accepts too slowly, and its backlog is full; raise it, or add a server")
            }
            Self::Other(error) => f.write_str(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::*;

    #[test]
    fn gu22_a_file_shows_what_is_wrong_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| -> UnixPath { format!("unix:{}/{name}", folder.path().display()).parse().unwrap() };
        let check = |name: &str, expected: Option<&UnixFault>| {
            assert_eq!(SocketFile::at(&path(name)).err().as_ref(), expected, "{name}");
        };
        check("missing.sock", Some(&UnixFault::Missing));
        std::fs::write(folder.path().join("file"), "").unwrap();
        check("file", Some(&UnixFault::NoSocket));
        check(".", Some(&UnixFault::NoSocket));
        let first = UnixListener::bind(folder.path().join("a.sock")).unwrap();
        check("a.sock", None);
        let file = SocketFile::at(&path("a.sock"));
        assert_eq!(SocketFile::at(&path("a.sock")), file);
        let _second = UnixListener::bind(folder.path().join("b.sock")).unwrap();
        std::fs::rename(folder.path().join("b.sock"), folder.path().join("a.sock")).unwrap();
        assert_ne!(SocketFile::at(&path("a.sock")), file, "another server");
        drop(first);
    }

    #[test]
    fn gu22_an_error_is_told_with_its_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let check = |name: &str, expected: &UnixFault, remedy: &str| {
            let path = folder.path().join(name);
            let error = std::os::unix::net::UnixStream::connect(&path).unwrap_err();
            let fault = UnixFault::of_error(&path, &error);
            assert_eq!(&fault, expected, "{name}");
            assert!(fault.to_string().contains(remedy), "{fault}");
        };
        check("missing.sock", &UnixFault::Missing, "start the server, or correct the path");
        std::fs::write(folder.path().join("file"), "").unwrap();
        check("file", &UnixFault::NoSocket, "remove it");
        drop(UnixListener::bind(folder.path().join("left.sock")).unwrap());
        check("left.sock", &UnixFault::NoListener, "start the server");
        let _datagrams = UnixDatagram::bind(folder.path().join("d.sock")).unwrap();
        check("d.sock", &UnixFault::NoStream, "correct the path");
        let full = UnixFault::of_error(folder.path(), &io::ErrorKind::WouldBlock.into());
        assert!(full == UnixFault::Full && full.to_string().contains("add a server"), "{full}");
    }
}
