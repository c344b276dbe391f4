//! The file with the process id of the service, for those who send it signals.

use std::io;
use std::path::Path;

/// Writes the id of the process that is the service. Readers see the old id or the new one.
///
/// # Errors
/// Those of the system, with the path.
pub(crate) fn write(path: &Path, pid: u32) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let written = std::fs::write(&new, format!("{pid}\n")).and_then(|()| std::fs::rename(&new, path));
    written.map_err(|error| {
        let text = format!("cannot write the process id to {} (--pid-file): {error}", path.display());
        io::Error::new(error.kind(), text)
    })
}

/// Removes the file, unless another process is the service by now.
pub(crate) fn remove(path: &Path, pid: u32) {
    if std::fs::read_to_string(path).is_ok_and(|text| text.trim() == pid.to_string()) {
        let _ = std::fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_file_of_this_process_is_removed() {
        let path = std::env::temp_dir().join(format!("gateway-pid-{:x}", net::unique_id()));
        write(&path, 7).unwrap();
        write(&path, 8).unwrap();
        remove(&path, 7);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "8\n");
        remove(&path, 8);
        assert!(!path.exists());
        let error = write(&path.join("below"), 1).unwrap_err();
        assert!(error.to_string().contains("below"), "{error}");
    }
}
