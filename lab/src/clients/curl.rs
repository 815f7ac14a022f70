//! `curl`, the HTTP client.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Received;
use crate::namespace::Namespace;
use crate::process::{Finished, run};
use crate::topology::Family;

/// A `curl` in a namespace.
#[derive(Debug, Clone)]
pub struct Curl<'a> {
    namespace: &'a Namespace,
    directory: PathBuf,
    family: Family,
    options: Vec<String>,
    port: u16,
}

impl<'a> Curl<'a> {
    /// Returns a client that uses IPv4 and writes what it receives to `directory`.
    #[must_use]
    pub fn new(namespace: &'a Namespace, directory: &Path) -> Self {
        Self { namespace, directory: directory.to_owned(), family: Family::V4, options: Vec::new(), port: 80 }
    }

    /// Uses this version of IP.
    #[must_use]
    pub fn family(self, family: Family) -> Self {
        Self { family, ..self }
    }

    /// Connects to this port of the server.
    #[must_use]
    pub fn port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// Adds options of curl's own.
    #[must_use]
    pub fn options(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(|option| (*option).to_owned()));
        self
    }

    /// Returns the URL of a path of the server.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        match self.family {
            Family::V4 => format!("http://{}:{}/{path}", self.family.server(), self.port),
            Family::V6 => format!("http://[{}]:{}/{path}", self.family.server(), self.port),
        }
    }

    /// Fetches a path of the server.
    ///
    /// # Errors
    /// If curl fails, the status is not a success, or it takes longer than `limit`.
    pub fn get(&self, path: &str, limit: Duration) -> Result<Received> {
        let output = self.directory.join(format!("{}-{}", self.namespace.name(), path.replace('/', "-")));
        let _ = std::fs::remove_file(&output);
        let finished = self.try_get(path, &output, limit)?.ok().with_context(|| format!("curl {path}"))?;
        Ok(Received { path: output, took: finished.took })
    }

    /// Fetches a path of the server to a file, however it ends.
    ///
    /// # Errors
    /// If curl cannot be started or takes longer than `limit`.
    pub fn try_get(&self, path: &str, output: &Path, limit: Duration) -> Result<Finished> {
        let mut command = self.command();
        command.arg("-o").arg(output).arg(self.url(path));
        run(&mut command, limit)
    }

    /// Fetches several paths over one connection, one after the other, and returns how long it took in all.
    ///
    /// # Errors
    /// If one fails, or curl opened a second connection.
    pub fn get_all(&self, paths: &[String], limit: Duration) -> Result<Vec<Received>> {
        self.get_over(1, paths, limit)
    }

    /// The same with a new connection for each.
    ///
    /// # Errors
    /// If one fails, or curl used a connection again.
    pub fn get_each(&self, paths: &[String], limit: Duration) -> Result<Vec<Received>> {
        let closing = self.clone().options(&["--header", "Connection: close"]);
        closing.get_over(paths.len(), paths, limit)
    }

    fn get_over(&self, wanted: usize, paths: &[String], limit: Duration) -> Result<Vec<Received>> {
        let mut command = self.command();
        command.args(["-w", "%{num_connects}\n"]);
        let mut received = Vec::new();
        for path in paths {
            let output = self.directory.join(format!("{}-{}", self.namespace.name(), path.replace('/', "-")));
            let _ = std::fs::remove_file(&output);
            command.arg("-o").arg(&output).arg(self.url(path));
            received.push(output);
        }
        let finished = run(&mut command, limit)?.ok().context("curl several paths")?;
        let connections: usize = finished.text().lines().filter_map(|line| line.parse::<usize>().ok()).sum();
        ensure!(connections == wanted, "curl used {connections} connections for {} paths", paths.len());
        Ok(received.into_iter().map(|path| Received { path, took: finished.took }).collect())
    }

    /// Returns the command without a URL.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = self.namespace.command("curl");
        command.args(["--disable", "--silent", "--show-error", "--fail"]).args(&self.options);
        if !self.options.iter().any(|option| option == "--proxy") {
            command.args(["--noproxy", "*"]);
        }
        command
    }
}
