//! What a node is to be, before it runs: where, in which role, and what its configuration says.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{ADMIN, CORE_NAME, CORE_SITE, EDGE_NAME, EDGE_SITE, LINK_PORT, Memory, Mode};
use crate::namespace::Namespace;
use crate::process::Process;
use crate::topology::{CORE_WAN, CORE_WAN_V6, Family, Lab, SERVER_V4};

/// A node to be started.
#[derive(Debug, Clone)]
pub struct Setup<'a> {
    pub(super) namespace: &'a Namespace,
    pub(super) name: String,
    pub(super) site: String,
    pub(super) role: Role,
    clock: Option<String>,
    memory: Memory,
    /// `store.size`, in MiB.
    store_size: u64,
    family: Family,
    shares: bool,
    /// Lines of the sections `[core]` and `[peers]`.
    core: String,
    peers: String,
}

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Core,
    Edge(Mode),
}

impl<'a> Setup<'a> {
    /// Returns the core in the head office.
    #[must_use]
    pub fn core(lab: &'a Lab) -> Self {
        Self::new(lab.core(), CORE_NAME, CORE_SITE, Role::Core)
    }

    /// Returns the edge on the branch's gateway.
    #[must_use]
    pub fn edge(lab: &'a Lab, mode: Mode) -> Self {
        Self::new(lab.edge(), EDGE_NAME, EDGE_SITE, Role::Edge(mode))
    }

    /// Returns an edge on a workstation of the LAN, which is one of the lab's clients.
    #[must_use]
    pub fn workstation(lab: &'a Lab, number: usize) -> Self {
        Self::new(lab.client(number), &format!("desk-{}", number + 1), EDGE_SITE, Role::Edge(Mode::Local))
    }

    /// Returns an edge on a gateway of the LAN, for the client behind it.
    #[must_use]
    pub fn gateway(lab: &'a Lab, number: usize) -> Self {
        Self::new(lab.gateway(number), &format!("gate-{}", number + 1), EDGE_SITE, Role::Edge(Mode::Tproxy))
    }

    /// Returns an edge on a workstation in a subnet of its own.
    #[must_use]
    pub fn remote(lab: &'a Lab, number: usize) -> Self {
        Self::new(lab.remote(number), &format!("far-{}", number + 1), EDGE_SITE, Role::Edge(Mode::Local))
    }

    fn new(namespace: &'a Namespace, name: &str, site: &str, role: Role) -> Self {
        Self {
            namespace,
            name: name.to_owned(),
            site: site.to_owned(),
            role,
            clock: None,
            memory: Memory::PLENTY,
            store_size: 4 << 10,
            family: Family::V4,
            shares: true,
            core: String::new(),
            peers: String::new(),
        }
    }

    /// Puts it into another site.
    #[must_use]
    pub fn site(self, site: &str) -> Self {
        Self { site: site.to_owned(), ..self }
    }

    /// Gives it other limits.
    #[must_use]
    pub fn memory(self, memory: Memory) -> Self {
        Self { memory, ..self }
    }

    /// Gives its store so many MiB of disk.
    #[must_use]
    pub fn store_size(self, store_size: u64) -> Self {
        Self { store_size, ..self }
    }

    /// Has the link use this version of IP.
    #[must_use]
    pub fn family(self, family: Family) -> Self {
        Self { family, ..self }
    }

    /// Makes it one that asks and gives nothing.
    #[must_use]
    pub fn gives_nothing(self) -> Self {
        Self { shares: false, ..self }
    }

    /// Sets its clock wrong, in the words of faketime(1), such as `+3h`.
    #[must_use]
    pub fn clock(self, offset: &str) -> Self {
        Self { clock: Some(offset.to_owned()), ..self }
    }

    /// Adds a line to the section `[core]`.
    #[must_use]
    pub fn core_line(mut self, line: &str) -> Self {
        self.core += &format!("{line}\n");
        self
    }

    /// Adds a line to the section `[peers]`.
    #[must_use]
    pub fn peers_line(mut self, line: &str) -> Self {
        self.peers += &format!("{line}\n");
        self
    }

    /// Starts the process.
    pub(super) fn spawn(&self, wanigan: &Path, file: &Path) -> Result<Process> {
        self.namespace.spawn(&self.name, &mut self.run(wanigan, file)?)
    }

    fn run(&self, wanigan: &Path, file: &Path) -> Result<Command> {
        let mut command = self.namespace.command(&wanigan.to_string_lossy());
        // For whoever looks for a fault: WANIGAN_LAB_LOG=wanigan=debug.
        let log = std::env::var("WANIGAN_LAB_LOG").unwrap_or_else(|_| "info".to_owned());
        command.args(["run", "-c"]).arg(file).env("WANIGAN_LOG", log);
        if let Some(offset) = &self.clock {
            // What the program `faketime` does, but for a process of its own that would stand between us and the node.
            // A monotonic clock knows no date, so it cannot be wrong.
            command.env("LD_PRELOAD", faketime()?).env("FAKETIME", offset);
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        Ok(command)
    }

    /// Returns the configuration file's text.
    pub(super) fn configuration(&self, pki: &Path, state: &Path) -> String {
        let Self { name, site, store_size, .. } = self;
        let (pki, state) = (pki.display(), state.display());
        let Memory { store, limits } = self.memory;
        let mut text = format!(
            "[node]\n\
             name = \"{name}\"\n\
             site = \"{site}\"\n\
             state-dir = \"{state}\"\n\
             ca = \"{pki}/ca.pem\"\n\
             certificate = \"{pki}/{name}.pem\"\n\
             key = \"{pki}/{name}.key\"\n\n\
             {}\n\
             [limits]\nmemory = \"{limits} MiB\"\n\n\
             [admin]\nlisten = \"{ADMIN}\"\n\n\
             [store]\nsize = \"{store_size} MiB\"\nmemory = \"{store} MiB\"\n",
            self.role_lines()
        );
        let share = if self.shares { "" } else { "share = false\n" };
        let peers = if self.peers.is_empty() { String::new() } else { format!("\n[peers]\n{}", self.peers) };
        write!(text, "{share}{peers}").expect("a String takes all");
        text
    }

    fn role_lines(&self) -> String {
        let core = match self.family {
            Family::V4 => format!("{CORE_WAN}:{LINK_PORT}"),
            Family::V6 => format!("[{CORE_WAN_V6}]:{LINK_PORT}"),
        };
        let mode = match self.role {
            Role::Edge(mode) => mode,
            Role::Core => {
                return format!(
                    "[core]\nlisten = \"{core}\"\n\
                     allow-servers = [\"10.2.0.0/16:445,139,80\", \"[fd00:2::/64]:445,139,80\"]\n{}",
                    self.core
                );
            }
        };
        format!(
            "[[edge.intercept]]\n{}\n\
             [[edge.route]]\nservers = [\"10.2.0.0/16\", \"fd00:2::/64\"]\ncore = \"{core}\"\n",
            intercept_lines(mode)
        )
    }
}

fn intercept_lines(mode: Mode) -> String {
    // The unspecified address stands for both versions of IP.
    let transparent = |mode: &str| {
        format!(
            "mode = \"{mode}\"\nlisten = \"0.0.0.0:7445\"\nports = [445, 139, 80]\nmanage-nftables = true\n"
        )
    };
    match mode {
        Mode::Tproxy => transparent("tproxy"),
        Mode::Redirect => transparent("redirect"),
        Mode::Local => transparent("redirect") + "local = true\n",
        Mode::Listen { port } => format!(
            "mode = \"listen\"\nlisten = \"{}\"\nserver = \"{SERVER_V4}:{port}\"\n",
            Mode::listen_address(port)
        ),
    }
}

/// Returns the library that the program `faketime` preloads, in its variant for threads.
fn faketime() -> Result<PathBuf> {
    std::fs::read_dir("/usr/lib")
        .context("look for libfaketime")?
        .flatten()
        .map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"))
        .find(|path| path.is_file())
        .context("find libfaketime")
}
