//! SMB clients written in Python, each with a short script that uses its library as its own documents do.
//!
//! `lab/install-deps.sh` puts them into a virtual environment of Cargo's target directory. Whether that is the one this lab
//! was built for is seen by the list of versions left in it: an older one counts as missing.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::namespace::Namespace;

/// What tests write where they need the clients of this module: [`crate::scenario`] looks for it by that name.
pub const NEED: &str = "lab-python";

/// A library that speaks SMB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// `impacket`.
    Impacket,
    /// `smbprotocol`, through its high-level module `smbclient`.
    Smbprotocol,
    /// `pysmb`.
    Pysmb,
    /// `smbprotocol` itself, in the steps of [`super::steps`].
    SmbprotocolSteps,
}

impl Library {
    fn script(self) -> (&'static str, &'static str) {
        match self {
            Self::Impacket => ("impacket_get.py", include_str!("../../clients/impacket_get.py")),
            Self::Smbprotocol => ("smbprotocol_get.py", include_str!("../../clients/smbprotocol_get.py")),
            Self::Pysmb => ("pysmb_get.py", include_str!("../../clients/pysmb_get.py")),
            Self::SmbprotocolSteps => {
                ("smbprotocol_steps.py", include_str!("../../clients/smbprotocol_steps.py"))
            }
        }
    }

    /// Returns the command that runs its script in a namespace; arguments are the caller's. The script is written to
    /// `directory`.
    ///
    /// # Errors
    /// If the environment is missing or the script cannot be written.
    pub fn command(self, namespace: &Namespace, directory: &Path) -> Result<Command> {
        let python = interpreter().context("find the lab's Python environment")?;
        let (name, text) = self.script();
        let path = directory.join(name);
        std::fs::write(&path, text).with_context(|| format!("write {name}"))?;
        let mut command = namespace.command(&python.to_string_lossy());
        command.arg("-I").arg(path);
        Ok(command)
    }
}

/// Returns the environment's interpreter, if it has the versions that this lab was built for.
#[must_use]
pub fn interpreter() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let complete = |environment: &PathBuf| {
        std::fs::read_to_string(environment.join("requirements.txt")).is_ok_and(|text| text == VERSIONS)
    };
    program
        .ancestors()
        .skip(1)
        .take(3)
        .map(|directory| directory.join(NEED))
        .find(complete)
        .map(|environment| environment.join("bin/python"))
}

const VERSIONS: &str = include_str!("../../clients/requirements.txt");
