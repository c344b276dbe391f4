//! The path of a Unix socket.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

/// The begin of the text of a path.
const SCHEME: &str = "unix:";
/// Maximum bytes of a path: `sun_path` has 108 on Linux (unix(7)) and 104 on macOS (unix(4)), and
/// its last byte ends the path.
pub const MAX_UNIX_PATH_BYTES: usize = if cfg!(target_vendor = "apple") { 103 } else { 107 };

/// The absolute path of a Unix socket, written as `unix:/run/app.sock`. Copies share the text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixPath(Arc<str>);

/// Why a text is not a [`UnixPath`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UnixPathError {
    /// The text does not begin with `unix:`.
    #[error("write the path of a Unix socket as unix:/run/app.sock")]
    Scheme,
    /// There is no path.
    #[error("the path of the socket is missing; write it as unix:/run/app.sock")]
    Empty,
    /// An abstract name of Linux, which is not a path.
    #[error("abstract names are not supported, as any process may take one; write a path, as in unix:/run/app.sock")]
    Abstract,
    /// The path depends on the folder in which the process was started.
    #[error("the path must be absolute, as in unix:/run/app.sock")]
    Relative,
    /// The text is a URL.
    #[error("write one slash after unix:, as in unix:/run/app.sock")]
    Slashes,
    /// The path ends with a slash, as that of a folder does.
    #[error("this is the path of a folder; write that of the socket in it, as in unix:/run/app.sock")]
    Folder,
    /// More follows than the path.
    #[error("write the path of the socket alone, without a query or the path of a request, as in unix:/run/app.sock")]
    Extra,
    /// The path has a character that cannot be shown in a line.
    #[error("the path has a control character")]
    Control,
    /// The system does not take it.
    #[error("the path has {bytes} bytes, and the system takes {MAX_UNIX_PATH_BYTES} at most (sun_path in unix(7))")]
    TooLong {
        /// The bytes of the path; a letter beyond ASCII has several.
        bytes: usize,
    },
}

impl UnixPath {
    /// Whether a text is meant as the path of a Unix socket, and not as a host.
    pub fn is_meant(text: &str) -> bool {
        let begin = text.get(..SCHEME.len()).unwrap_or_default();
        text.starts_with('/') || begin.eq_ignore_ascii_case(SCHEME)
    }

    /// The path.
    pub fn as_path(&self) -> &Path {
        Path::new(&*self.0)
    }
}

impl FromStr for UnixPath {
    type Err = UnixPathError;

    fn from_str(text: &str) -> Result<Self, UnixPathError> {
        let path = text.strip_prefix(SCHEME).ok_or(UnixPathError::Scheme)?;
        let wrong = match path {
            "" => Some(UnixPathError::Empty),
            _ if path.starts_with('@') => Some(UnixPathError::Abstract),
            _ if path.starts_with("//") => Some(UnixPathError::Slashes),
            _ if !path.starts_with('/') => Some(UnixPathError::Relative),
            _ if path.contains(char::is_control) => Some(UnixPathError::Control),
            _ if path.contains('?') || path.contains(":/") || path.ends_with(':') => Some(UnixPathError::Extra),
            _ if path.ends_with('/') => Some(UnixPathError::Folder),
            _ if path.len() > MAX_UNIX_PATH_BYTES => Some(UnixPathError::TooLong { bytes: path.len() }),
            _ => None,
        };
        wrong.map_or_else(|| Ok(Self(path.into())), Err)
    }
}

impl fmt::Display for UnixPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, UnixPathError>) {
        let parsed = text.parse::<UnixPath>();
        assert_eq!(parsed.as_ref().map(UnixPath::as_path), expected.as_ref().map(Path::new), "{text}");
        if let Ok(path) = parsed {
            assert_eq!(path.to_string(), text);
        }
    }

    #[test]
    fn an_absolute_path_that_the_system_takes_is_one() {
        check("unix:/run/app.sock", Ok("/run/app.sock"));
        check("unix:/run/가게 1/앱.sock", Ok("/run/가게 1/앱.sock"));
        check("unix:/run/a@b:c.sock", Ok("/run/a@b:c.sock"));
        check("", Err(UnixPathError::Scheme));
        check("/run/app.sock", Err(UnixPathError::Scheme));
        check("UNIX:/run/app.sock", Err(UnixPathError::Scheme));
        check("unix:", Err(UnixPathError::Empty));
        check("unix:@name", Err(UnixPathError::Abstract));
        check("unix:app.sock", Err(UnixPathError::Relative));
        check("unix:./app.sock", Err(UnixPathError::Relative));
        check("unix:///run/app.sock", Err(UnixPathError::Slashes));
        check("unix:/", Err(UnixPathError::Folder));
        check("unix:/run/", Err(UnixPathError::Folder));
        check("unix:/run/app.sock?x=1", Err(UnixPathError::Extra));
        check("unix:/run/app.sock:/api", Err(UnixPathError::Extra));
        check("unix:/run/app.sock:", Err(UnixPathError::Extra));
        check("unix:/run/app\n.sock", Err(UnixPathError::Control));
        check("unix:/run/app\0.sock", Err(UnixPathError::Control));
        let path_of = |bytes: usize| format!("/{}", "x".repeat(bytes - 1));
        check(&format!("unix:{}", path_of(MAX_UNIX_PATH_BYTES)), Ok(&path_of(MAX_UNIX_PATH_BYTES)));
        let bytes = MAX_UNIX_PATH_BYTES + 1;
        check(&format!("unix:{}", path_of(bytes)), Err(UnixPathError::TooLong { bytes }));
        check(&format!("unix:/{}", "가".repeat(40)), Err(UnixPathError::TooLong { bytes: 121 }));
    }

    #[test]
    fn the_longest_path_is_the_longest_that_the_system_takes() {
        let longest =
            |bytes: usize| std::os::unix::net::SocketAddr::from_pathname(format!("/{}", "x".repeat(bytes - 1)));
        assert!(longest(MAX_UNIX_PATH_BYTES).is_ok() && longest(MAX_UNIX_PATH_BYTES + 1).is_err());
    }
}
