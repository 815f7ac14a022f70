//! The server secret on disk, and its rotation: `server-secret` is what the core names blocks with, and
//! `server-secret.previous` is what it named them with before, for as long as the grace runs from that file's
//! modification time.
//!
//! Cores that share the secret have copies of both files. Nothing is signalled: a running core reads the files every
//! [`POLL`], so a rotation here and a copy that arrives there are noticed the same way ([`ServerSecrets::watch`]).
//!
//! A rotation writes the old secret as the previous one first, and then the new one over the current one, each by
//! renaming a flushed file. So there is a current secret at every moment, and a crash between the two leaves one that is
//! its own previous, which counts as none. Files that are found are never repaired: at the start a bad one is an
//! error; later the secrets in use stay, with a warning. The wall clock decides the grace, since files and other hosts
//! know no other; a clock that jumps lengthens or shortens it, by at most the grace itself.
//!
//! This room knows nothing of blocks' secrets beyond making a [`ServerSecret`] of the bytes.

use std::fmt;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tracing::{info, warn};

use crate::block::{KeyId, ServerSecret};
use crate::secret_file::{self, SECRET_BYTES, SecretFileError};

/// How often a running core looks at the files.
pub const POLL: Duration = Duration::from_secs(2);

/// The secrets that are good at one moment.
#[derive(Debug, Clone)]
pub struct Secrets {
    /// What blocks are named with.
    pub current: ServerSecret,
    /// What they were named with before, and how long that stays good; never the current one.
    pub previous: Option<(ServerSecret, Duration)>,
}

impl Secrets {
    /// Returns the secret of that name while it is good.
    #[must_use]
    pub fn find(&self, key: KeyId) -> Option<&ServerSecret> {
        let previous = self.previous.as_ref().map(|(previous, _)| previous);
        [Some(&self.current), previous].into_iter().flatten().find(|secret| secret.id() == key)
    }
}

/// The secrets of a core. Clones see the same.
#[derive(Debug, Clone)]
pub struct ServerSecrets {
    files: Files,
    grace: Duration,
    found: Arc<watch::Sender<Found>>,
}

/// Tells of changes: a rotation, or the end of a grace.
#[derive(Debug)]
pub struct Changes {
    found: watch::Receiver<Found>,
    grace: Duration,
}

impl ServerSecrets {
    /// Reads the secrets of a state directory, which must exist. A first secret is made where there is none.
    ///
    /// # Errors
    /// [`SecretFileError`] when a file is exposed, malformed, or cannot be read or made.
    pub fn load(state_dir: &Path, grace: Duration) -> Result<Self, SecretFileError> {
        let files = Files::of(state_dir);
        secret_file::load_or_create(&files.current)?;
        let found = files.read()?.at(grace, now());
        Ok(Self { files, grace, found: Arc::new(watch::Sender::new(found)) })
    }

    /// Returns the secrets that are good at this moment.
    #[must_use]
    pub fn current(&self) -> Secrets {
        self.found.borrow().secrets(self.grace, now())
    }

    /// Returns what tells of each change from here on.
    #[must_use]
    pub fn changes(&self) -> Changes {
        Changes { found: self.found.subscribe(), grace: self.grace }
    }

    /// Watches the files for as long as it is polled: a task of the core's.
    pub async fn watch(self) {
        self.watch_every(POLL).await;
    }

    async fn watch_every(self, period: Duration) {
        let mut watcher = Watcher::default();
        loop {
            tokio::time::sleep(period).await;
            let files = self.files.clone();
            // A disk that hangs must not take the runtime's thread along.
            let Ok(read) = tokio::task::spawn_blocking(move || files.read()).await else { return };
            let read = read.map(|found| found.at(self.grace, now()));
            let in_use = self.found.borrow().clone();
            match watcher.handle_read(&in_use, read) {
                Step::Keep => {}
                Step::Warn(error) => {
                    let error = &error as &dyn std::error::Error;
                    warn!(error, "server secret not read: the one in use stays");
                }
                Step::Take(found) => {
                    let previous =
                        found.previous.as_ref().map(|(secret, _)| KeyName(secret.id()).to_string());
                    info!(current = %KeyName(found.current.id()), previous, "server secrets changed");
                    self.found.send_replace(found);
                }
            }
        }
    }
}

impl Changes {
    /// Waits for a change that was not told yet, and returns the secrets after it; pends for ever once the secrets'
    /// last owner is gone. Cancel safe.
    pub async fn changed(&mut self) -> Secrets {
        if self.found.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.found.borrow_and_update().secrets(self.grace, now())
    }
}

/// Why the secret was not rotated.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// There would be three secrets that blocks in use are named with.
    #[error(
        "give up the server secret before this one, {}: blocks named under it stay good for another {}, and edges \
         would fetch them anew",
        KeyName(*.previous),
        Coarse(*.left)
    )]
    InGrace {
        /// The secret that would be lost.
        previous: KeyId,
        /// What is left of its grace.
        left: Duration,
    },
    /// Two at once would lose one of the new secrets.
    #[error("rotate the secret in {}: another rotation is at work", .0.display())]
    Busy(PathBuf),
    /// The directory cannot be locked.
    #[error("lock {}", .0.display())]
    Lock(PathBuf, #[source] io::Error),
    /// A file.
    #[error(transparent)]
    File(#[from] SecretFileError),
}

/// What a rotation did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotated {
    /// The name of the new secret.
    pub current: KeyId,
    /// The name of what was the current one; its grace has just begun.
    pub previous: KeyId,
    /// What was the previous one, and what was left of its grace: gone.
    pub lost: Option<(KeyId, Duration)>,
}

/// Makes a new secret and keeps the current one as the previous one. Whether a core runs does not matter.
///
/// # Errors
/// [`RotateError`]; [`RotateError::InGrace`] unless `force`. There is a current secret afterwards in any case.
pub fn rotate(state_dir: &Path, grace: Duration, force: bool) -> Result<Rotated, RotateError> {
    let _lock = lock(state_dir)?;
    let files = Files::of(state_dir);
    let old = files.read()?;
    let before = old.at(grace, now()).secrets(grace, now());
    let lost = before.previous.map(|(secret, left)| (secret.id(), left));
    if let Some((previous, left)) = lost.filter(|_| !force) {
        return Err(RotateError::InGrace { previous, left });
    }
    let new = secret_file::random()?;
    files.keep_as_previous(&old)?;
    files.replace_current(&new)?;
    Ok(Rotated { current: ServerSecret::new(new).id(), previous: before.current.id(), lost })
}

/// The name of a secret as logs and operators see it.
#[derive(Debug, Clone, Copy)]
pub struct KeyName(pub KeyId);

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A duration as one tells it: `6 d 23 h`, `40 min`, `5 s`.
#[derive(Debug, Clone, Copy)]
pub struct Coarse(pub Duration);

impl fmt::Display for Coarse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60) {
            (0, 0, 0) => write!(f, "{seconds} s"),
            (0, 0, minutes) => write!(f, "{minutes} min"),
            (0, hours, 0) => write!(f, "{hours} h"),
            (0, hours, minutes) => write!(f, "{hours} h {minutes} min"),
            (days, 0, _) => write!(f, "{days} d"),
            (days, hours, _) => write!(f, "{days} d {hours} h"),
        }
    }
}

/// The two files.
#[derive(Debug, Clone)]
struct Files {
    current: PathBuf,
    previous: PathBuf,
}

/// What they hold.
struct Read {
    current: [u8; SECRET_BYTES],
    previous: Option<([u8; SECRET_BYTES], SystemTime)>,
}

/// The secrets of the files; the previous one with the time its grace began, as long as that had not ended.
#[derive(Debug, Clone)]
struct Found {
    current: ServerSecret,
    previous: Option<(ServerSecret, SystemTime)>,
}

impl Files {
    fn of(state_dir: &Path) -> Self {
        Self { current: state_dir.join("server-secret"), previous: state_dir.join("server-secret.previous") }
    }

    /// Reads the current secret first: a rotation in between gives the new previous one, which is then the current
    /// one too. The other way round both could be missed.
    fn read(&self) -> Result<Read, SecretFileError> {
        let (current, _) = secret_file::load(&self.current)?;
        let previous = match secret_file::load(&self.previous) {
            Ok(previous) => Some(previous),
            Err(error) if error.is_absent() => None,
            Err(error) => return Err(error),
        };
        Ok(Read { current, previous })
    }

    fn keep_as_previous(&self, old: &Read) -> Result<(), SecretFileError> {
        secret_file::replace(&self.previous, &old.current, &self.current)
    }

    fn replace_current(&self, new: &[u8; SECRET_BYTES]) -> Result<(), SecretFileError> {
        secret_file::replace(&self.current, new, &self.current)
    }
}

impl Read {
    fn at(&self, grace: Duration, now: SystemTime) -> Found {
        let current = ServerSecret::new(self.current);
        // A crash in the middle of a rotation leaves the current secret as the previous one, too.
        let other = self.previous.filter(|(previous, _)| *previous != self.current);
        let good = other.filter(|(_, since)| left(*since, grace, now).is_some());
        Found { current, previous: good.map(|(previous, since)| (ServerSecret::new(previous), since)) }
    }
}

impl Found {
    fn secrets(&self, grace: Duration, now: SystemTime) -> Secrets {
        let previous = self.previous.as_ref();
        let previous = previous.and_then(|(secret, since)| Some((secret.clone(), left(*since, grace, now)?)));
        Secrets { current: self.current.clone(), previous }
    }

    fn has(&self, key: KeyId) -> bool {
        self.current.id() == key || self.previous_id() == Some(key)
    }

    fn previous_id(&self) -> Option<KeyId> {
        self.previous.as_ref().map(|(secret, _)| secret.id())
    }

    fn is_same(&self, other: &Self) -> bool {
        let since = |found: &Self| found.previous.as_ref().map(|(secret, since)| (secret.id(), *since));
        self.current.id() == other.current.id() && since(self) == since(other)
    }
}

/// What is left of a grace; `None` when it is over. A file from the future, another host's, has all of it.
fn left(since: SystemTime, grace: Duration, now: SystemTime) -> Option<Duration> {
    let gone = now.duration_since(since).unwrap_or(Duration::ZERO);
    grace.checked_sub(gone).filter(|left| !left.is_zero())
}

/// Decides what a look at the files means. Copying two files takes more than one step, so what looks like a mistake is
/// one only if the next look finds the same.
#[derive(Debug, Default)]
struct Watcher {
    doubt: Option<KeyId>,
    failures: u32,
}

/// What to do after a look.
#[derive(Debug)]
enum Step {
    Keep,
    Warn(SecretFileError),
    Take(Found),
}

impl Watcher {
    fn handle_read(&mut self, in_use: &Found, read: Result<Found, SecretFileError>) -> Step {
        let found = match read {
            Ok(found) => found,
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                return if self.failures == 2 { Step::Warn(error) } else { Step::Keep };
            }
        };
        self.failures = 0;
        let doubt = self.doubt.take();
        if found.is_same(in_use) {
            return Step::Keep;
        }
        let key = found.current.id();
        // A secret in use that is suddenly good for nothing: the file of the previous one may be on its way.
        if !found.has(in_use.current.id()) && doubt != Some(key) {
            self.doubt = Some(key);
            return Step::Keep;
        }
        Step::Take(found)
    }
}

/// Keeps a second rotation out until it is dropped.
fn lock(state_dir: &Path) -> Result<File, RotateError> {
    let failed = |error| RotateError::Lock(state_dir.to_owned(), error);
    let dir = File::open(state_dir).map_err(failed)?;
    match dir.try_lock() {
        Ok(()) => Ok(dir),
        Err(TryLockError::WouldBlock) => Err(RotateError::Busy(state_dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

fn now() -> SystemTime {
    #[expect(
        clippy::disallowed_methods,
        reason = "the grace is counted from a file's time, which is the wall clock's"
    )]
    SystemTime::now()
}

#[cfg(test)]
mod tests;
