//! A private Samba server in the head office.

use std::fs::Permissions;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::process::{Process, finish};
use crate::servers::serve;
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

/// Somebody with rights of his own in the share [`PEOPLE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// How clients name him.
    pub name: &'static str,
    /// Samba wants a Unix user for each: one that every Debian has and nobody uses.
    unix: &'static str,
    id: u32,
}

impl User {
    /// Who has secrets.
    pub const ALICE: Self = Self { name: "alice", unix: "games", id: 5 };
    /// Who is after them.
    pub const MALLORY: Self = Self { name: "mallory", unix: "news", id: 9 };
    const ALL: [Self; 2] = [Self::ALICE, Self::MALLORY];
}

/// A running `smbd` with shares `files` and `archive`, where whoever gets in may do everything, and `people`, where the files'
/// permissions count. It listens on 445, on 139, and on [`Smbd::DIRECT_PORT`].
#[derive(Debug)]
pub struct Smbd {
    configuration: PathBuf,
    share: PathBuf,
    archive: PathBuf,
    people: PathBuf,
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
        let [share, archive, people] = ["share", "archive", "people"].map(|name| home.join(name));
        for name in DIRECTORIES.iter().chain(&["share", "archive", "people", "people/.snapshots", "log"]) {
            std::fs::create_dir_all(home.join(name)).with_context(|| format!("make smbd's {name}"))?;
        }
        let configuration = home.join("smb.conf");
        std::fs::write(&configuration, configuration_text(&home, signing, encryption))
            .context("write smb.conf")?;
        let map: String = User::ALL.iter().map(|user| format!("{} = {}\n", user.unix, user.name)).collect();
        std::fs::write(home.join("users"), map).context("write smbd's map of users")?;
        add_user(&configuration, USER)?;
        let mut command = lab.server().command("smbd");
        command.args(["--foreground", "--no-process-group", "--configfile"]).arg(&configuration);
        command.arg("--log-basename").arg(home.join("log"));
        let addresses = [SocketAddr::from((SERVER_V4, PORT)), SocketAddr::from((SERVER_V6, PORT))];
        let process = serve(lab, "smbd", &mut command, &addresses)?;
        Ok(Self { configuration, share, archive, people, _process: process })
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

    /// Lets a user in.
    ///
    /// # Errors
    /// If Samba does not know his Unix user.
    pub fn admit(&self, user: User) -> Result<()> {
        add_user(&self.configuration, user.unix)
    }

    /// Writes a file to the share [`PEOPLE`] that this user alone, or everybody, may read. What had that name is replaced.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn give(&self, name: &str, content: &[u8], reader: Option<User>) -> Result<()> {
        let (path, new) = (self.people.join(name), self.people.join(format!("{name}.new")));
        std::fs::write(&new, content).with_context(|| format!("write {}", new.display()))?;
        let mode = if reader.is_some() { 0o600 } else { 0o644 };
        std::fs::set_permissions(&new, Permissions::from_mode(mode)).context("set permissions")?;
        chown(&new, reader.map(|user| user.id), None).context("give a file away")?;
        std::fs::rename(&new, &path).with_context(|| format!("replace {}", path.display()))
    }

    /// Puts a file of that share into a snapshot, by the snapshot's `@GMT-` name: as it is, with its times and rights.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn keep_in_snapshot(&self, snapshot: &str, name: &str) -> Result<()> {
        let directory = self.people.join(".snapshots").join(snapshot);
        std::fs::create_dir_all(&directory).context("make a snapshot")?;
        // What replaces the file in the share is another one.
        std::fs::hard_link(self.people.join(name), directory.join(name)).context("keep a file")
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
/// The name of the share where permissions count. Its snapshots are directories below `.snapshots`.
pub const PEOPLE: &str = "people";

/// What tests write where they need snapshots: [`crate::scenario`] looks for it by that name.
pub const MODULES_NEED: &str = "samba-vfs";

/// Returns whether this machine has Samba's module for snapshots, which is not in the server's own package.
#[must_use]
pub fn has_modules() -> bool {
    let libraries = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    libraries.map(|entry| entry.path().join("samba/vfs/shadow_copy2.so")).any(|module| module.is_file())
}

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
         username map = {home}/users\n\
         [{SHARE}]\n\
         path = {home}/share\n\
         read only = no\n\
         force user = root\n\
         [{ARCHIVE}]\n\
         path = {home}/archive\n\
         read only = no\n\
         force user = root\n\
         [{PEOPLE}]\n\
         path = {home}/people\n\
         read only = no\n\
         vfs objects = shadow_copy2\n\
         shadow:mountpoint = {home}/people\n",
        Smbd::NETBIOS_PORT,
        Smbd::DIRECT_PORT
    )
}

fn add_user(configuration: &Path, user: &str) -> Result<()> {
    let started = Instant::now();
    let mut child = Command::new("smbpasswd")
        .arg("-c")
        .arg(configuration)
        .args(["-L", "-s", "-a", user])
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
