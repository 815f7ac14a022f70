//! Samba's `smbclient`, which reads up to 8 MiB at a time.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Received;
use crate::namespace::Namespace;
use crate::process::{Finished, run};
use crate::servers::smbd::{PASSWORD, SHARE, USER};
use crate::topology::Family;

/// A dialect of SMB 2 and 3 (MS-SMB2 1.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// 2.0.2: reads of at most 64 KiB.
    Smb202,
    /// 2.1.
    Smb210,
    /// 3.0.
    Smb300,
    /// 3.1.1.
    Smb311,
}

impl Dialect {
    /// The dialects under test.
    pub const ALL: [Self; 4] = [Self::Smb202, Self::Smb210, Self::Smb300, Self::Smb311];

    fn as_str(self) -> &'static str {
        match self {
            Self::Smb202 => "SMB2_02",
            Self::Smb210 => "SMB2_10",
            Self::Smb300 => "SMB3_00",
            Self::Smb311 => "SMB3_11",
        }
    }
}

/// What the client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// What it asks for when nobody tells it.
    Unsaid,
    /// Neither signing nor encryption.
    None,
    /// Signing.
    Sign,
    /// Encryption.
    Encrypt,
}

impl Protection {
    fn option(self) -> Option<&'static str> {
        match self {
            Self::Unsaid => None,
            Self::None => Some("--client-protection=off"),
            Self::Sign => Some("--client-protection=sign"),
            Self::Encrypt => Some("--client-protection=encrypt"),
        }
    }
}

/// An `smbclient` in a namespace.
#[derive(Debug, Clone)]
pub struct SmbClient<'a> {
    namespace: &'a Namespace,
    directory: PathBuf,
    dialect: Dialect,
    protection: Protection,
    family: Family,
    share: &'static str,
    at: Option<(String, u16)>,
}

impl<'a> SmbClient<'a> {
    /// Returns a client that speaks 3.1.1 unprotected over IPv4 and writes what it receives to `directory`.
    #[must_use]
    pub fn new(namespace: &'a Namespace, directory: &Path) -> Self {
        Self {
            namespace,
            directory: directory.to_owned(),
            dialect: Dialect::Smb311,
            protection: Protection::None,
            family: Family::V4,
            share: SHARE,
            at: None,
        }
    }

    /// Speaks this dialect and no other.
    #[must_use]
    pub fn dialect(self, dialect: Dialect) -> Self {
        Self { dialect, ..self }
    }

    /// Asks for protection.
    #[must_use]
    pub fn protection(self, protection: Protection) -> Self {
        Self { protection, ..self }
    }

    /// Uses this version of IP.
    #[must_use]
    pub fn family(self, family: Family) -> Self {
        Self { family, ..self }
    }

    /// Uses this share.
    #[must_use]
    pub fn share(self, share: &'static str) -> Self {
        Self { share, ..self }
    }

    /// Connects to this port of the server.
    #[must_use]
    pub fn port(self, port: u16) -> Self {
        let address = self.family.server().to_string();
        self.at(&address, port)
    }

    /// Connects to this address and port instead of the server's.
    #[must_use]
    pub fn at(self, address: &str, port: u16) -> Self {
        Self { at: Some((address.to_owned(), port)), ..self }
    }

    /// Reads a file of the share.
    ///
    /// # Errors
    /// If the client fails or takes longer than `limit`.
    pub fn get(&self, name: &str, limit: Duration) -> Result<Received> {
        let path = self.directory.join(format!("{}-{name}", self.namespace.name()));
        // A file of an earlier read would pass for this one's.
        let _ = std::fs::remove_file(&path);
        let finished = self.try_get(name, &path, limit)?.ok().with_context(|| format!("get {name}"))?;
        Ok(Received { path, took: finished.took })
    }

    /// Reads a file of the share to a path, however it ends.
    ///
    /// # Errors
    /// If the client cannot be started or takes longer than `limit`.
    pub fn try_get(&self, name: &str, path: &Path, limit: Duration) -> Result<Finished> {
        run(&mut self.command(&format!("get {name} {}", path.display())), limit)
    }

    /// Reads all files of a directory of the share, in one session, and returns how long it took.
    ///
    /// # Errors
    /// If the client fails or takes longer than `limit`, or a file is not among those that came.
    pub fn get_all(&self, directory: &str, names: &[String], limit: Duration) -> Result<Vec<Received>> {
        let local = self.directory.join(format!("{}-{directory}", self.namespace.name()));
        let _ = std::fs::remove_dir_all(&local);
        std::fs::create_dir(&local).context("make a directory")?;
        let commands = format!("prompt; lcd {}; cd {directory}; mget *", local.display());
        let took =
            run(&mut self.command(&commands), limit)?.ok().with_context(|| format!("mget {directory}"))?.took;
        Ok(names.iter().map(|name| Received { path: local.join(name), took }).collect())
    }

    /// Writes a file to the share.
    ///
    /// # Errors
    /// If the client fails or takes longer than `limit`.
    pub fn put(&self, path: &Path, name: &str, limit: Duration) -> Result<Finished> {
        let mut command = self.command(&format!("put {} {name}", path.display()));
        run(&mut command, limit)?.ok().with_context(|| format!("put {name}"))
    }

    /// Returns the command that carries out `commands` of smbclient's own, separated by semicolons.
    #[must_use]
    pub fn command(&self, commands: &str) -> Command {
        let mut command = self.interactive();
        command.args(["-c", commands]);
        command
    }

    /// Returns the command that logs in and then reads commands from its input.
    #[must_use]
    pub fn interactive(&self) -> Command {
        let dialect = self.dialect.as_str();
        let (address, port) = self.at.clone().unwrap_or_else(|| (self.family.server().to_string(), 445));
        let mut command = self.namespace.command("smbclient");
        command
            .arg(format!("//CONTENT/{}", self.share))
            .args(["--configfile=/dev/null", "-I", &address, "-p", &port.to_string()])
            .args(["-U", &format!("{USER}%{PASSWORD}"), "-m", dialect])
            .arg(format!("--option=client min protocol={dialect}"))
            .args(self.protection.option())
            .env("HOME", &self.directory);
        command
    }
}
