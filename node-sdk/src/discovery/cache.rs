//! The cache file: what a node knew of the mesh, so that it can call others before it reaches a
//! Distributor.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use protocol::{Digest, Replica, Revision};
use serde::{Deserialize, Serialize};

/// The first line of the file. Each further line is an id, a space, and an entry as it was
/// received.
#[derive(Debug, Serialize, Deserialize)]
struct CacheHeader {
    /// The format of the file; a file of another format is ignored.
    v: u32,
    #[serde(flatten)]
    revision: Revision,
    /// The digest of the entries, which is their checksum too.
    digest: Digest,
    /// Seconds since 1970.
    saved: u64,
    /// The address of the Distributor that sent the entries, if it is on another machine: loopback
    /// addresses mean that machine.
    far: Option<IpAddr>,
    /// The urls that the node has used.
    #[serde(default)]
    uses: Vec<String>,
    /// The checksum of this line: CRC-32 of it without this member. Files of nodes that did not ask
    /// for what they use have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sum: Option<u32>,
}

impl CacheHeader {
    /// The line without a checksum, and its checksum.
    fn sum(&self) -> Option<u32> {
        let line = serde_json::to_string(&Self { sum: None, uses: self.uses.clone(), ..*self }).ok()?;
        Some(crc32fast::hash(line.as_bytes()))
    }

    /// Whether it has the right checksum, or none and nothing that needs one.
    fn is_whole(&self) -> bool {
        match self.sum {
            Some(_) => self.sum == self.sum(),
            None => self.v == FORMAT && self.uses.is_empty(),
        }
    }
}

/// The content of the file.
#[derive(Debug)]
pub(crate) struct CachedMesh {
    pub(crate) replica: Replica,
    /// Since when.
    pub(crate) age: Duration,
    /// The urls that the node has used.
    pub(crate) uses: Vec<String>,
    /// Whether the node had a partial view.
    pub(crate) is_partial: bool,
}

/// The format of a file with all nodes, and of one with a part of them.
const FORMAT: u32 = 2;
const FORMAT_OF_PARTIAL: u32 = 3;
/// Names that are tried for the new file; one of 128 random bits is hardly ever taken.
const MAX_NAMES: u32 = 4;
/// A file that is larger than any list is not ours.
const MAX_FILE_BYTES: u64 = 32 << 20;

/// Reads the file. `None` when there is none.
///
/// # Errors
/// When the file cannot be read or is damaged. Nothing of it is then used.
pub(crate) fn load(path: &Path) -> io::Result<Option<CachedMesh>> {
    let text = match fs::metadata(path) {
        Ok(file) if file.len() > MAX_FILE_BYTES => return Err(invalid("it is larger than any list")),
        Ok(_) => fs::read_to_string(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let (head, entries) = text.split_once('\n').ok_or_else(|| invalid("it has no first line"))?;
    let header: CacheHeader = serde_json::from_str(head)?;
    if header.v != FORMAT && header.v != FORMAT_OF_PARTIAL {
        return Err(invalid("its format is of another version"));
    }
    if !header.is_whole() {
        return Err(invalid("the checksum of its first line is wrong"));
    }
    let CacheHeader { v, revision, digest, saved, far, uses, sum: _ } = header;
    let entries: Option<Vec<(u64, &str)>> = entries
        .lines()
        .map(|line| {
            let (id, entry) = line.split_once(' ')?;
            Some((id.parse().ok()?, entry))
        })
        .collect();
    let entries = entries.ok_or_else(|| invalid("a line is not an entry"))?;
    let replica = Replica::seeded_from(far, revision, entries.into_iter());
    if replica.digest() != digest || !revision.is_sound() {
        return Err(invalid("its checksum is wrong"));
    }
    let age = Duration::from_secs(seconds_since_1970().saturating_sub(saved));
    Ok(Some(CachedMesh { replica, age, uses, is_partial: v == FORMAT_OF_PARTIAL }))
}

/// The text of the file of a node that has used these urls, and has a partial view or knows all
/// nodes; `None` when the replica has no revision to resume from.
pub(crate) fn text(replica: &Replica, uses: Vec<String>, is_partial: bool) -> Option<String> {
    let revision = replica.revision()?;
    let mut head = CacheHeader {
        v: if is_partial { FORMAT_OF_PARTIAL } else { FORMAT },
        revision,
        digest: replica.digest(),
        saved: seconds_since_1970(),
        far: replica.registry_host(),
        uses,
        sum: None,
    };
    head.sum = head.sum();
    let mut text = serde_json::to_string(&head).ok()?;
    text.push('\n');
    for (id, entry) in replica.entries() {
        // Compact JSON has no line ends.
        text.push_str(&format!("{id} {entry}\n"));
    }
    Some(text)
}

/// Replaces the file in one step: a reader finds the old text or the new one. Only the owner may
/// read it, because it holds the ids of instances.
pub(crate) fn store(path: &Path, text: &str) -> io::Result<()> {
    let (temporary, mut file) = create_beside(path)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    let stored = written.and_then(|()| fs::rename(&temporary, path));
    if stored.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    stored
}

/// Creates a new file under a name that cannot be guessed. In a folder where others may write too,
/// a link under a known name would redirect the write.
fn create_beside(path: &Path) -> io::Result<(PathBuf, File)> {
    let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
    for _ in 0..MAX_NAMES {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{:032x}.tmp", net::unique_id()));
        let name = PathBuf::from(name);
        let mut options = File::options();
        // `create_new` follows no link.
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        match options.open(&name) {
            Ok(file) => return Ok((name, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[expect(clippy::disallowed_methods, reason = "the age of a file is told to people and decides nothing")]
fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: &str = r#"{"port":1,"name":"a","urls":["GET/a"],"host":"::1"}"#;

    fn replica() -> Replica {
        let revision = Revision { epoch: 5, rev: 7 };
        Replica::seeded(revision, [(3, ENTRY), (9, r#"{"port":2,"name":"¶","host":"::1"}"#)].into_iter())
    }

    fn file() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peers");
        (folder, path)
    }

    #[test]
    fn a_stored_file_is_loaded() {
        let (_folder, path) = file();
        assert!(load(&path).unwrap().is_none());
        for _ in 0..2 {
            for is_partial in [false, true] {
                let uses = vec!["GET/a".to_owned(), "EVENT/¶".to_owned()];
                store(&path, &text(&replica(), uses.clone(), is_partial).unwrap()).unwrap();
                let loaded = load(&path).unwrap().unwrap();
                let known = &loaded.replica;
                assert_eq!((known.revision(), known.digest()), (replica().revision(), replica().digest()));
                assert!(loaded.age < Duration::from_secs(60));
                assert_eq!((loaded.uses, loaded.is_partial), (uses, is_partial));
            }
        }
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");
        assert_eq!(text(&Replica::default(), Vec::new(), false), None);
    }

    #[test]
    fn rs14_half_a_file_or_a_flipped_bit_is_read_as_nothing() {
        let (_folder, path) = file();
        let whole = text(&replica(), vec!["GET/a".to_owned(), "EVENT/¶".to_owned()], true).unwrap();
        for bytes in 0..whole.len() - 1 {
            fs::write(&path, &whole.as_bytes()[..bytes]).unwrap();
            assert!(load(&path).is_err(), "{bytes} bytes");
        }
        // The name of a member without a value means the same as none.
        let harmless = whole.find("far").unwrap()..whole.find("far").unwrap() + "far".len();
        for at in (0..whole.len()).filter(|at| !harmless.contains(at)) {
            let mut spoiled = whole.clone().into_bytes();
            spoiled[at] ^= 1;
            fs::write(&path, spoiled).unwrap();
            assert!(load(&path).is_err(), "byte {at}");
        }
    }

    #[test]
    fn up8_files_of_other_versions_are_ignored() {
        let (_folder, path) = file();
        for text in ["", "\n", "{}\n", "7\n", "{\"v\":1,\"epoch\":1,\"rev\":1,\"digest\":0,\"saved\":0}\n", "¶"] {
            fs::write(&path, text).unwrap();
            assert!(load(&path).is_err(), "{text}");
        }
    }

    #[test]
    fn rs15_an_old_file_shows_its_age() {
        let (_folder, path) = file();
        let month = 31 * 24 * 3600;
        let head = CacheHeader {
            v: FORMAT,
            revision: Revision::default(),
            digest: Digest(0),
            saved: seconds_since_1970() - month,
            far: None,
            uses: Vec::new(),
            sum: None,
        };
        store(&path, &format!("{}\n", serde_json::to_string(&head).unwrap())).unwrap();
        let loaded = load(&path).unwrap().unwrap();
        assert!(loaded.age >= Duration::from_secs(month));
    }

    #[test]
    fn a_file_that_cannot_be_written_leaves_the_old_one() {
        let (folder, path) = file();
        store(&path, "old").unwrap();
        assert!(store(&folder.path().join("no/such/folder"), "new").is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    }

    #[test]
    fn a_link_in_the_way_of_a_new_file_is_not_followed() {
        use std::os::unix::fs::PermissionsExt;
        let (folder, path) = file();
        let other = folder.path().join("other");
        fs::write(&other, "precious").unwrap();
        // A link under the earlier, known name; and a link as the path itself, which is replaced.
        let guessed = folder.path().join(format!("peers.{}.tmp", std::process::id()));
        std::os::unix::fs::symlink(&other, &guessed).unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        store(&path, "new").unwrap();
        assert_eq!(
            (fs::read_to_string(&other).unwrap(), fs::read_to_string(&path).unwrap()),
            ("precious".into(), "new".into())
        );
        assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn the_loopback_of_another_machine_stays_that() {
        let (_folder, path) = file();
        for far in [None, Some("10.0.0.9".parse().unwrap()), Some("fd00::9".parse().unwrap())] {
            let known = Replica::seeded_from(far, Revision { epoch: 5, rev: 7 }, [(3, ENTRY)].into_iter());
            store(&path, &text(&known, Vec::new(), false).unwrap()).unwrap();
            let loaded = load(&path).unwrap().unwrap().replica;
            assert_eq!((loaded.registry_host(), loaded.nodes()), (far, known.nodes()));
        }
    }

    const FILE: &str = "WRITE_THIS_FILE_UNTIL_KILLED";

    /// Not a test, but the process that the next test kills.
    #[test]
    fn rs14_a_process_that_writes_without_end() {
        let Ok(path) = std::env::var(FILE) else { return };
        let entries: Vec<_> = (0..2000).map(|id| (id, ENTRY)).collect();
        for rev in 0.. {
            let replica = Replica::seeded(Revision { epoch: 1, rev }, entries.iter().copied());
            store(Path::new(&path), &text(&replica, Vec::new(), false).unwrap()).unwrap();
        }
    }

    #[test]
    fn rs14_whenever_the_writer_is_killed_the_file_is_whole() {
        let (_folder, path) = file();
        let mut newest = None;
        for round in 0..30 {
            let mut writer = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "discovery::cache::tests::rs14_a_process_that_writes_without_end"])
                .env(FILE, &path)
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap();
            // The writer has replaced the file, and is now somewhere within the next one.
            let before = newest.take();
            while newest.is_none() || newest == before {
                newest = fs::metadata(&path).ok().map(|file| std::os::unix::fs::MetadataExt::ino(&file));
            }
            // A few rounds of a loop, to kill it at a random moment.
            (0..fastrand::u32(..3000)).for_each(|_| drop(fs::metadata(&path)));
            writer.kill().unwrap();
            writer.wait().unwrap();
            let replica = load(&path).unwrap().expect("a file").replica;
            assert_eq!(replica.entries().count(), 2000, "round {round}");
        }
    }
}
