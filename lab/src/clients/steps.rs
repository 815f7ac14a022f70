//! A client that is told each step: several users on one connection, parts of files, snapshots, another session's handle.
//! Programs and people do not work like this; those who look for a way around the server's rights do.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::python::Library;
use crate::content::Digest;
use crate::namespace::Namespace;
use crate::process::run;
use crate::servers::smbd::{PASSWORD, PEOPLE, User};
use crate::topology::SERVER_V4;

/// What is to be done over one SMB connection to the share [`PEOPLE`], in this order.
#[derive(Debug, Clone, Default)]
pub struct Steps {
    words: Vec<String>,
    files: usize,
}

/// A file of [`Steps::open`], and who opened it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFile {
    number: usize,
    /// In whose session.
    pub user: User,
}

/// What the server said to a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status (MS-ERREF 2.3).
    pub status: u32,
    digest: String,
}

impl Steps {
    /// Returns none.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens a file in a user's session, which begins with this if there is none.
    pub fn open(&mut self, user: User, name: &str) -> OpenFile {
        self.open_of("-", user, name)
    }

    /// The same of a snapshot, by its `@GMT-` name.
    pub fn open_snapshot(&mut self, snapshot: &str, user: User, name: &str) -> OpenFile {
        self.open_of(snapshot, user, name)
    }

    fn open_of(&mut self, snapshot: &str, user: User, name: &str) -> OpenFile {
        self.words.push(format!("open {} {snapshot} {name}", user.name));
        self.files += 1;
        OpenFile { number: self.files - 1, user }
    }

    /// Reads of a file from its beginning, 64 KiB at a time, as who opened it.
    pub fn read(&mut self, file: OpenFile, length: usize) {
        self.read_as(file, length, file.user, file.user);
    }

    /// The same in the session of a user over the tree of a user, whoever opened it.
    pub fn read_as(&mut self, file: OpenFile, length: usize, user: User, tree: User) {
        self.words.push(format!("read {} 0 {length} {} {}", file.number, user.name, tree.name));
    }

    /// Takes the steps from inside a namespace and returns an answer for each; `directory` is for the script.
    ///
    /// # Errors
    /// If the server cannot be reached or does not let a user in, or it takes longer than `limit`.
    pub fn run(&self, namespace: &Namespace, directory: &Path, limit: Duration) -> Result<Vec<Answer>> {
        let mut command = Library::SmbprotocolSteps.command(namespace, directory)?;
        command.args([&SERVER_V4.to_string(), "445", PEOPLE, PASSWORD]).args(&self.words);
        let text = run(&mut command, limit)?.ok().context("take steps over SMB")?.text();
        let answers: Vec<_> = text.lines().map(Answer::read).collect::<Result<_>>()?;
        ensure!(answers.len() == self.words.len(), "{} answers to {:?}", answers.len(), self.words);
        Ok(answers)
    }
}

impl Answer {
    fn read(line: &str) -> Result<Self> {
        let (status, digest) = line.split_once(' ').unwrap_or((line, ""));
        let status = u32::from_str_radix(status, 16).with_context(|| format!("read a status in {line:?}"))?;
        Ok(Self { status, digest: digest.to_owned() })
    }

    /// Looks whether a file was opened.
    ///
    /// # Errors
    /// If not.
    pub fn expect_success(&self) -> Result<()> {
        ensure!(self.status == 0, "the server said {:#010x}", self.status);
        Ok(())
    }

    /// Compares what was read with what it has to be.
    ///
    /// # Errors
    /// If it differs, or the server refused it.
    pub fn expect(&self, bytes: &[u8]) -> Result<()> {
        self.expect_success()?;
        let digest = format!("{:?}", Digest::of(bytes));
        ensure!(self.digest == digest, "read {}, not {digest}", self.digest);
        Ok(())
    }

    /// Looks whether the server refused it.
    ///
    /// # Errors
    /// If not.
    pub fn expect_refusal(&self) -> Result<()> {
        // The upper two bits tell errors (MS-ERREF 2.3).
        ensure!(self.status >> 30 == 3, "the server said {:#010x}", self.status);
        Ok(())
    }
}
