//! A private Samba server in the head office.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::process::{Process, finish};
use crate::topology::{Lab, SERVER_V4, SERVER_V6};

/// Whether the server signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signing {
    /// Every session must be signed.
    Required,
    /// Sessions are signed where the client asks.
    Off,
}

/// Whether the server encrypts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// Every session must be encrypted; only SMB 3 clients get in.
    Required,
    /// Offered, as Samba does of itself: sessions are encrypted where the client asks.
    Offered,
    /// Not offered.
    Off,
}

/// A running `smbd` with two shares, `files` and `archive`. It listens on 445, on 139, and on [`Smbd::DIRECT_PORT`].
#[derive(Debug)]
pub struct Smbd {
    share: PathBuf,
    archive: PathBuf,
    _process: Process,
}

impl Smbd {
    /// The port for NetBIOS sessions (RFC 1002 4.3).
    pub const NETBIOS_PORT: u16 = 139;
    /// A port of its own that no edge intercepts: what is read there crosses the WAN as it does without Wanigan.
    pub const DIRECT_PORT: u16 = 1445;

    /// Starts the server and waits until it listens.
    ///
    /// # Errors
    /// If it does not.
    pub fn start(lab: &Lab, signing: Signing, encryption: Encryption) -> Result<Self> {
        let home = lab.path("smbd");
        let (share, archive) = (home.join("share"), home.join("archive"));
        for name in DIRECTORIES.iter().chain(&["share", "archive", "log"]) {
            std::fs::create_dir_all(home.join(name)).with_context(|| format!("make smbd's {name}"))?;
        }
        let configuration = home.join("smb.conf");
        std::fs::write(&configuration, configuration_text(&home, signing, encryption))
            .context("write smb.conf")?;
        add_user(&configuration)?;
        let mut command = lab.server().command("smbd");
        command.args(["--foreground", "--no-process-group", "--configfile"]).arg(&configuration);
        command.arg("--log-basename").arg(home.join("log"));
        let process = lab.server().spawn("smbd", &mut command)?;
        for address in [SocketAddr::from((SERVER_V4, PORT)), SocketAddr::from((SERVER_V6, PORT))] {
            lab.server().wait_for_port(address, Duration::from_secs(20))?;
        }
        Ok(Self { share, archive, _process: process })
    }

    /// Returns the share's directory.
    #[must_use]
    pub fn share(&self) -> &Path {
        &self.share
    }

    /// Returns the directory of the other share.
    #[must_use]
    pub fn archive(&self) -> &Path {
        &self.archive
    }
}

/// The account that clients use; Samba wants a Unix user of that name.
pub const USER: &str = "root";
/// Its password.
pub const PASSWORD: &str = "branch-office-7";
/// The share's name.
pub const SHARE: &str = "files";
/// The other share's name.
pub const ARCHIVE: &str = "archive";

fn configuration_text(home: &Path, signing: Signing, encryption: Encryption) -> String {
    let home = home.display();
    let signing = match signing {
        Signing::Required => "mandatory",
        Signing::Off => "disabled",
    };
    let encryption = match encryption {
        Encryption::Required => "required",
        Encryption::Offered => "default",
        Encryption::Off => "off",
    };
    let directories: String =
        DIRECTORIES.iter().map(|name| format!("{} = {home}/{name}\n", name.replace('-', " "))).collect();
    format!(
        "[global]\n\
         server role = standalone server\n\
         netbios name = CONTENT\n\
         workgroup = LAB\n\
         disable netbios = yes\n\
         smb ports = {PORT} {} {}\n\
         server min protocol = SMB2_02\n\
         server max protocol = SMB3_11\n\
         server signing = {signing}\n\
         server smb encrypt = {encryption}\n\
         {directories}\
         passdb backend = tdbsam\n\
         log file = {home}/smbd.log\n\
         log level = 1\n\
         max log size = 0\n\
         load printers = no\n\
         printing = bsd\n\
         printcap name = /dev/null\n\
         disable spoolss = yes\n\
         [{SHARE}]\n\
         path = {home}/share\n\
         read only = no\n\
         force user = root\n\
         [{ARCHIVE}]\n\
         path = {home}/archive\n\
         read only = no\n\
         force user = root\n",
        Smbd::NETBIOS_PORT,
        Smbd::DIRECT_PORT
    )
}

fn add_user(configuration: &Path) -> Result<()> {
    let started = Instant::now();
    let mut child = Command::new("smbpasswd")
        .arg("-c")
        .arg(configuration)
        .args(["-L", "-s", "-a", USER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start smbpasswd")?;
    let answers = format!("{PASSWORD}\n{PASSWORD}\n");
    child
        .stdin
        .take()
        .context("smbpasswd has an input")?
        .write_all(answers.as_bytes())
        .context("set a password")?;
    finish(child, started, Duration::from_secs(20))?.ok().context("add a user to Samba")?;
    Ok(())
}

const PORT: u16 = 445;
/// Each is a directory and, with blanks, the setting that names it.
const DIRECTORIES: [&str; 6] =
    ["private-dir", "lock-directory", "state-directory", "cache-directory", "pid-directory", "ncalrpc-dir"];
