//! Eight ways to read a file over SMB, by programs and libraries that people use, with the read sizes they have of themselves.
//!
//! What differs is how they cut a file into READ requests, and how many of those are under way together. Against Samba 4.17:
//!
//! | | bytes of a READ | under way |
//! |---|---|---|
//! | smbclient | 8 MiB | 2 |
//! | smbclient at SMB2_02, or on port 139 | 64 KiB | many |
//! | smbget | 64,000, aligned to nothing | 1 |
//! | impacket | 1 MiB | 1 |
//! | smbprotocol (`smbclient.shutil.copyfile`) | 64 KiB | 1 |
//! | pysmb | 64 KiB | 1 |
//! | rclone | from 4 KiB, doubling to 1 MiB | 1 |

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Received;
use super::python::{self, Library};
use super::smbclient::{Dialect, Protection, SmbClient};
use crate::namespace::Namespace;
use crate::process::run;
use crate::servers::smbd::{PASSWORD, SHARE, Smbd, USER};
use crate::topology::SERVER_V4;

/// A way to read a file over SMB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Samba's `smbclient`.
    SmbClient,
    /// The same, held to SMB 2.0.2.
    SmbClient202,
    /// Samba's `smbget`.
    SmbGet,
    /// The library impacket.
    Impacket,
    /// The library smbprotocol.
    Smbprotocol,
    /// The library pysmb.
    Pysmb,
    /// `rclone`.
    Rclone,
    /// `smbclient` over NetBIOS sessions.
    SmbClient139,
}

impl Program {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::SmbClient,
        Self::SmbClient202,
        Self::SmbGet,
        Self::Impacket,
        Self::Smbprotocol,
        Self::Pysmb,
        Self::Rclone,
        Self::SmbClient139,
    ];
    /// What a lab needs to have for all of them.
    pub const NEEDS: [&str; 4] = ["smbclient", "smbget", "rclone", python::NEED];

    /// Returns what people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SmbClient => "smbclient",
            Self::SmbClient202 => "smbclient at SMB2_02",
            Self::SmbGet => "smbget",
            Self::Impacket => "impacket",
            Self::Smbprotocol => "smbprotocol",
            Self::Pysmb => "pysmb",
            Self::Rclone => "rclone",
            Self::SmbClient139 => "smbclient on port 139",
        }
    }

    /// Reads a file of smbd's share from inside a namespace; what is received and kept goes to `directory`.
    ///
    /// # Errors
    /// If the program fails or takes longer than `limit`.
    pub fn get(
        self,
        namespace: &Namespace,
        directory: &Path,
        name: &str,
        limit: Duration,
    ) -> Result<Received> {
        let output = directory.join(format!("{}-{name}", namespace.name()));
        // A file of an earlier read would pass for this one's.
        let _ = std::fs::remove_file(&output);
        let mut command = self.command(namespace, directory, name, &output)?;
        command.env("HOME", directory);
        let finished =
            run(&mut command, limit)?.ok().with_context(|| format!("{}: get {name}", self.name()))?;
        Ok(Received { path: output, took: finished.took })
    }

    fn command(self, namespace: &Namespace, directory: &Path, name: &str, output: &Path) -> Result<Command> {
        let smbclient = |change: fn(SmbClient<'_>) -> SmbClient<'_>| {
            let client = SmbClient::new(namespace, directory).protection(Protection::Unsaid);
            change(client).command(&format!("get {name} {}", output.display()))
        };
        match self {
            Self::SmbClient => Ok(smbclient(|client| client)),
            Self::SmbClient202 => Ok(smbclient(|client| client.dialect(Dialect::Smb202))),
            Self::SmbClient139 => Ok(smbclient(|client| client.port(Smbd::NETBIOS_PORT))),
            Self::SmbGet => Ok(smbget(namespace, name, output)),
            Self::Rclone => rclone(namespace, name, output),
            Self::Impacket => script(Library::Impacket, namespace, directory, name, output),
            Self::Smbprotocol => script(Library::Smbprotocol, namespace, directory, name, output),
            Self::Pysmb => script(Library::Pysmb, namespace, directory, name, output),
        }
    }
}

fn smbget(namespace: &Namespace, name: &str, output: &Path) -> Command {
    let mut command = namespace.command("smbget");
    command
        .args(["--nonprompt", "--quiet", "--rcfile=/dev/null", "-U", &format!("{USER}%{PASSWORD}"), "-o"])
        .arg(output)
        .arg(format!("smb://{SERVER_V4}/{SHARE}/{name}"))
        // It has no option for the file that libsmbclient configures itself from.
        .env("SMB_CONF_PATH", "/dev/null");
    command
}

fn rclone(namespace: &Namespace, name: &str, output: &Path) -> Result<Command> {
    // Its passwords are scrambled wherever they stand.
    let scrambled = run(Command::new("rclone").args(["obscure", PASSWORD]), Duration::from_secs(20))?.ok()?;
    let mut command = namespace.command("rclone");
    command
        .args(["--config", "/dev/null", "--log-level", "ERROR", "copyto"])
        .arg(format!(":smb:{SHARE}/{name}"))
        .arg(output)
        .env("RCLONE_SMB_HOST", SERVER_V4.to_string())
        .env("RCLONE_SMB_USER", USER)
        .env("RCLONE_SMB_PASS", scrambled.text().trim());
    Ok(command)
}

fn script(
    library: Library,
    namespace: &Namespace,
    directory: &Path,
    name: &str,
    output: &Path,
) -> Result<Command> {
    let mut command = library.command(namespace, directory)?;
    command.args([&SERVER_V4.to_string(), "445", SHARE, name, USER, PASSWORD]).arg(output);
    Ok(command)
}
