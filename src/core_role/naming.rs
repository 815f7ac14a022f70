//! What a core names blocks with: its server secrets as they are at this moment, told to its edges, and the new names
//! of blocks that edges have under the older one.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use wanigan_parsers::wan::{KeyId, OlderKey};

use crate::block::{Naming, ServerSecret};
use crate::config::Proofs;
use crate::drain::Drain;
use crate::proof::Exporter;
use crate::renaming;
use crate::secret_file::SecretFileError;
use crate::server_secret::{Secrets, ServerSecrets};
use crate::wan::{Keys, Link};

/// The server secrets of a running core. Clones see the same.
#[derive(Debug, Clone)]
pub(super) struct CoreNaming {
    naming: Arc<RwLock<Naming>>,
    /// `None` in plain mode.
    secrets: Option<ServerSecrets>,
}

impl CoreNaming {
    /// Loads the secrets and follows their files.
    ///
    /// # Errors
    /// [`SecretFileError`] when a file is not what it should be.
    pub(super) fn start(
        proofs: Proofs,
        state_dir: &Path,
        grace: Duration,
        drain: &Drain,
    ) -> Result<Self, SecretFileError> {
        if proofs == Proofs::Plain {
            let naming = Naming { current: ServerSecret::plain(), older: None };
            return Ok(Self { naming: Arc::new(RwLock::new(naming)), secrets: None });
        }
        let secrets = ServerSecrets::load(state_dir, grace)?;
        let this = Self {
            naming: Arc::new(RwLock::new(naming_of(secrets.current()))),
            secrets: Some(secrets.clone()),
        };
        let (naming, mut changes) = (Arc::clone(&this.naming), secrets.changes());
        let stopping = drain.stopping().clone();
        drain.spawn("server secret", async move {
            let following = async {
                loop {
                    let secrets = changes.changed().await;
                    *naming.write().unwrap_or_else(PoisonError::into_inner) = naming_of(secrets);
                }
            };
            tokio::select! {
                () = stopping.cancelled() => {}
                () = secrets.watch() => {}
                () = following => {}
            }
        });
        Ok(this)
    }

    /// Returns what blocks are named with, as it changes.
    #[must_use]
    pub(super) fn naming(&self) -> Arc<RwLock<Naming>> {
        Arc::clone(&self.naming)
    }

    /// Tells an edge the names of the secrets, at once and at each change, until its link ends.
    pub(super) async fn tell(&self, link: &Link) {
        let Some(secrets) = &self.secrets else {
            return link.tell_keys(Keys { key: KeyId::PLAIN, older: None }).await;
        };
        let mut changes = secrets.changes();
        let mut latest = secrets.current();
        loop {
            link.tell_keys(keys_of(&latest)).await;
            tokio::select! {
                () = link.closed() => return,
                changed = changes.changed() => latest = changed,
            }
        }
    }

    /// Answers an edge that has blocks under the older server secret.
    #[must_use]
    pub(super) fn rename(
        &self,
        key: KeyId,
        questions: &[renaming::Question],
        exporter: &Exporter,
    ) -> (KeyId, Vec<renaming::Answer>) {
        let naming = self.naming.read().unwrap_or_else(PoisonError::into_inner);
        renaming::answer(&naming, key, questions, exporter)
    }
}

fn naming_of(secrets: Secrets) -> Naming {
    Naming { current: secrets.current, older: secrets.previous.map(|(previous, _)| previous) }
}

fn keys_of(secrets: &Secrets) -> Keys {
    let older = secrets.previous.as_ref().map(|(previous, left)| OlderKey {
        key: previous.id(),
        left_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
    });
    Keys { key: secrets.current.id(), older }
}
