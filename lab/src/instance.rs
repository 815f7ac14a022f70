//! The identity of one lab: a name that no other lab on the machine has, a directory, and a lock that says that it lives.
//!
//! A lab that was killed leaves namespaces, programs and a directory. Whoever makes the next lab finds its lock free and
//! removes them. Devices of the WAN need no care: they go with the process that held them.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::namespace;

/// A live lab's name and directory.
#[derive(Debug)]
pub(crate) struct Instance {
    name: String,
    directory: PathBuf,
    _alive: File,
}

impl Instance {
    /// Takes a new name, after removing what dead labs left.
    pub(crate) fn new() -> Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        fs::create_dir_all(ROOT).with_context(|| format!("make {ROOT}"))?;
        // One at a time: a directory without a locked lock may only be seen by whoever is about to lock it.
        let turn = open_lock(&Path::new(ROOT).join("lock"))?;
        turn.lock().context("take a turn among labs")?;
        remove_leftovers()?;
        let name = format!("wl{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let directory = Path::new(ROOT).join(&name);
        fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
        let alive = open_lock(&directory.join("lock"))?;
        alive.try_lock().context("lock a new lab")?;
        Ok(Self { name, directory, _alive: alive })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // What stays is found by the next lab.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn remove_leftovers() -> Result<()> {
    for entry in fs::read_dir(ROOT).with_context(|| format!("list {ROOT}"))? {
        let directory = entry.context("read an entry of the labs' directory")?.path();
        if !directory.is_dir() || is_alive(&directory)? {
            continue;
        }
        if let Some(name) = directory.file_name().and_then(|name| name.to_str()) {
            remove_namespaces(&format!("{name}-"))?;
        }
        fs::remove_dir_all(&directory).with_context(|| format!("remove {}", directory.display()))?;
    }
    Ok(())
}

fn is_alive(directory: &Path) -> Result<bool> {
    match open_lock(&directory.join("lock"))?.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error).context("look at a lab's lock"),
    }
}

fn remove_namespaces(prefix: &str) -> Result<()> {
    let Ok(namespaces) = fs::read_dir("/run/netns") else {
        return Ok(());
    };
    for entry in namespaces {
        let name = entry.context("list namespaces")?.file_name();
        if let Some(name) = name.to_str().filter(|name| name.starts_with(prefix)) {
            namespace::remove(name).with_context(|| format!("remove the leftover {name}"))?;
        }
    }
    Ok(())
}

fn open_lock(path: &Path) -> Result<File> {
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .with_context(|| format!("open {}", path.display()))
}

/// Only root writes here: content of tests is served from below it, and leftovers are removed by name.
const ROOT: &str = "/var/lib/wanigan-lab";
