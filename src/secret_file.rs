//! Secrets on disk: 32 random bytes that only the owner of the file can read.
//!
//! A secret is made on first use, whole or not at all: it is written under another name, flushed and then linked into
//! place, so a crash leaves either no secret or a good one. What is found is never repaired: a secret that others can
//! read, or that has another length, is refused, since whatever it protects was perhaps protected by something else.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aws_lc_rs::rand;
use tempfile::NamedTempFile;

/// The length of every secret kept this way.
pub const SECRET_BYTES: usize = 32;

/// Why a secret cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// Others than the owner can get at the file.
    #[error("use {}: mode {mode:04o} lets others than its owner get at it, expected 0600", .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is not of the right length, or no file.
    #[error("use {}: not a file of {expected} bytes", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The length of a secret.
        expected: usize,
    },
    /// The system failed.
    #[error("{verb} {}", .path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// No randomness.
    #[error("draw random bytes")]
    Random,
}

impl SecretFileError {
    /// Returns whether there is no such file.
    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Returns the secret in a file, which is made with mode 0600 where there is none. Its directory must exist.
///
/// # Errors
/// [`SecretFileError`] when the file is exposed, malformed, or cannot be read or made.
pub fn load_or_create(path: &Path) -> Result<[u8; SECRET_BYTES], SecretFileError> {
    match load(path) {
        Err(error) if error.is_absent() => create(path),
        loaded => loaded.map(|(secret, _)| secret),
    }
}

/// Makes a directory and its parents, readable by the owner only where it did not exist.
///
/// # Errors
/// [`SecretFileError::Io`].
pub fn create_private_dir(path: &Path) -> Result<(), SecretFileError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| SecretFileError::Io { verb: "create", path: path.to_owned(), source })
}

/// Opens a file of secrets and returns it if its mode keeps `forbidden` bits clear.
pub(crate) fn open_private(path: &Path, forbidden: u32) -> Result<File, SecretFileError> {
    let io = |source| SecretFileError::Io { verb: "read", path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    // Asked of the open file, so that what was checked is what is read.
    let metadata = file.metadata().map_err(io)?;
    let mode = metadata.mode() & 0o777;
    if mode & forbidden != 0 {
        return Err(SecretFileError::Exposed { path: path.to_owned(), mode });
    }
    Ok(file)
}

/// Writes a new file with this mode from its first moment on, and never over one that exists.
pub(crate) fn write_new(path: &Path, mode: u32, contents: &[u8]) -> Result<(), SecretFileError> {
    let io = |source| SecretFileError::Io { verb: "create", path: path.to_owned(), source };
    let file = write_beside(path, mode, contents).map_err(io)?;
    file.as_file().sync_all().map_err(io)?;
    file.persist_noclobber(path).map_err(|error| io(error.error))?;
    sync_dir(path).map_err(io)
}

/// Writes a secret over what a file holds, if anything, whole or not at all. The file belongs to whom `like` belongs:
/// a command of root's must not take a secret away from the node.
pub(crate) fn replace(path: &Path, secret: &[u8; SECRET_BYTES], like: &Path) -> Result<(), SecretFileError> {
    let io = |source| SecretFileError::Io { verb: "replace", path: path.to_owned(), source };
    let owner = fs::metadata(like).map_err(io)?;
    let file = write_beside(path, 0o600, secret).map_err(io)?;
    let written = file.as_file().metadata().map_err(io)?;
    if (written.uid(), written.gid()) != (owner.uid(), owner.gid()) {
        fchown(file.as_file(), Some(owner.uid()), Some(owner.gid())).map_err(io)?;
    }
    file.as_file().sync_all().map_err(io)?;
    file.persist(path).map_err(|error| io(error.error))?;
    sync_dir(path).map_err(io)
}

/// Writes a temporary file in the directory of `path`.
fn write_beside(path: &Path, mode: u32, contents: &[u8]) -> io::Result<NamedTempFile> {
    let permissions = fs::Permissions::from_mode(mode);
    let mut file = tempfile::Builder::new().permissions(permissions).tempfile_in(dir_of(path))?;
    file.write_all(contents)?;
    Ok(file)
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(dir_of(path)).and_then(|dir| dir.sync_all())
}

fn dir_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Returns a secret and when its file was last written.
pub(crate) fn load(path: &Path) -> Result<([u8; SECRET_BYTES], SystemTime), SecretFileError> {
    let mut file = open_private(path, 0o077)?;
    let written = file.metadata().and_then(|metadata| metadata.modified());
    let written =
        written.map_err(|source| SecretFileError::Io { verb: "read", path: path.to_owned(), source })?;
    let malformed = || SecretFileError::Malformed { path: path.to_owned(), expected: SECRET_BYTES };
    let mut secret = [0; SECRET_BYTES];
    file.read_exact(&mut secret).map_err(|_| malformed())?;
    match file.read(&mut [0]) {
        Ok(0) => Ok((secret, written)),
        Ok(_) | Err(_) => Err(malformed()),
    }
}

/// Draws a new secret.
pub(crate) fn random() -> Result<[u8; SECRET_BYTES], SecretFileError> {
    let mut secret = [0; SECRET_BYTES];
    rand::fill(&mut secret).map_err(|_| SecretFileError::Random)?;
    Ok(secret)
}

fn create(path: &Path) -> Result<[u8; SECRET_BYTES], SecretFileError> {
    let secret = random()?;
    match write_new(path, 0o600, &secret) {
        // Another process was first: its secret is the one in use.
        Err(SecretFileError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
            load(path).map(|(secret, _)| secret)
        }
        Err(error) => Err(error),
        Ok(()) => Ok(secret),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_made_once_with_mode_0600_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("server-secret");
        let made = load_or_create(&path).unwrap();
        assert_ne!(made, [0; SECRET_BYTES]);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(load_or_create(&path).unwrap(), made);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn two_secrets_differ() {
        let dir = tempfile::tempdir().unwrap();
        let one = load_or_create(&dir.path().join("one")).unwrap();
        assert_ne!(one, load_or_create(&dir.path().join("two")).unwrap());
    }

    #[test]
    fn a_secret_that_group_or_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for mode in [0o640, 0o604, 0o620, 0o601] {
            let path = dir.path().join(format!("{mode:o}"));
            load_or_create(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = load_or_create(&path).unwrap_err();
            assert!(
                matches!(error, SecretFileError::Exposed { mode: found, .. } if found == mode),
                "{error}"
            );
            assert!(error.to_string().contains(&format!("mode 0{mode:o}")), "{error}");
        }
    }

    #[test]
    fn a_secret_of_another_length_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        for len in [0, SECRET_BYTES - 1, SECRET_BYTES + 1] {
            let path = dir.path().join(len.to_string());
            write_new(&path, 0o600, &vec![7; len]).unwrap();
            assert!(matches!(load_or_create(&path), Err(SecretFileError::Malformed { .. })), "{len}");
            assert_eq!(fs::read(&path).unwrap(), vec![7; len]);
        }
    }

    #[test]
    fn a_missing_directory_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let error = load_or_create(&dir.path().join("absent/secret")).unwrap_err();
        assert!(error.to_string().ends_with("absent/secret"), "{error}");
    }

    #[test]
    fn a_replaced_secret_keeps_its_owner_and_mode_and_is_of_this_moment() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("server-secret");
        load_or_create(&path).unwrap();
        // Only root can give files away; without, the owner is the same anyhow.
        let given = std::os::unix::fs::chown(&path, Some(4321), Some(1234)).is_ok();
        let before = fs::metadata(&path).unwrap();
        let long_ago = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        File::open(&path).unwrap().set_modified(long_ago).unwrap();
        assert_eq!(load(&path).unwrap().1, long_ago);
        replace(&path, &[7; SECRET_BYTES], &path).unwrap();
        let after = fs::metadata(&path).unwrap();
        assert_eq!((after.uid(), after.gid()), (before.uid(), before.gid()));
        assert!(!given || after.uid() == 4321);
        assert_eq!(after.mode() & 0o7777, 0o600);
        let (secret, written) = load(&path).unwrap();
        assert!(secret == [7; SECRET_BYTES] && written > long_ago);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn a_new_file_never_replaces_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write_new(&path, 0o600, b"first").unwrap();
        assert!(write_new(&path, 0o600, b"second").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"first");
    }
}
