//! A private `smbd`, and `smbclient` to fetch from it: real SMB without root and without a line of the machine's own Samba.
//!
//! Everything is in one temporary directory: configuration, databases, sockets, logs, the share. It listens
//! on loopback only, on a high port, and knows one user: the account that runs it (an unprivileged `smbd` can
//! become nobody else) with a random password. Signing is required and the client speaks SMB 3.1.1, as in a careful
//! branch. The directory and all of `smbd`'s processes are gone when [`Samba`] is dropped.
//!
//! What can go wrong: Samba is not installed ([`SambaError::Missing`]), the user id has no account name, or `smbd` does not
//! come up, which brings the end of its log along.

mod conf;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::Fetched;

/// How long `smbd` may take until it accepts connections.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// The share's name.
const SHARE: &str = "demo";

/// Why there is no Samba, or no file from it.
#[derive(Debug, thiserror::Error)]
pub enum SambaError {
    /// Programs that are not installed.
    #[error("find {}: not installed (Debian packages: samba, smbclient)", .0.join(", "))]
    Missing(Vec<&'static str>),
    /// A file or a process of the private Samba.
    #[error("{action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// A program said no.
    #[error("run {program}: {said}")]
    Program {
        /// Which one.
        program: &'static str,
        /// The end of what it wrote.
        said: String,
    },
}

/// The programs of an installed Samba.
#[derive(Debug, Clone)]
pub struct Programs {
    smbd: PathBuf,
    pdbedit: PathBuf,
    smbclient: PathBuf,
}

/// A running private `smbd`.
#[derive(Debug)]
pub struct Samba {
    programs: Programs,
    server: Child,
    port: u16,
    directory: TempDir,
}

impl Programs {
    /// Looks for Samba on the path and in the system's directories for servers.
    ///
    /// # Errors
    /// [`SambaError::Missing`] with the programs that are not there.
    pub fn find() -> Result<Self, SambaError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
        directories.extend(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
        Self::find_in(&directories)
    }

    fn find_in(directories: &[PathBuf]) -> Result<Self, SambaError> {
        let mut missing = Vec::new();
        let mut find = |name| {
            let found = directories.iter().map(|directory| directory.join(name)).find(|file| file.is_file());
            found.unwrap_or_else(|| {
                missing.push(name);
                PathBuf::new()
            })
        };
        let found = Self { smbd: find("smbd"), pdbedit: find("pdbedit"), smbclient: find("smbclient") };
        if missing.is_empty() { Ok(found) } else { Err(SambaError::Missing(missing)) }
    }
}

impl Samba {
    /// Starts a private `smbd` and waits until it accepts connections.
    ///
    /// # Errors
    /// [`SambaError`]; [`SambaError::Missing`] is the one to go on without.
    pub fn start() -> Result<Self, SambaError> {
        let programs = Programs::find()?;
        let directory = tempfile::Builder::new()
            .prefix("wanigan-smbd-")
            .tempdir()
            .map_err(failed("make a temporary directory"))?;
        let account = account_name()?;
        let port = free_port()?;
        conf::write(directory.path(), port, &account).map_err(failed("write the configuration of smbd"))?;
        add_user(&programs, directory.path(), &account)?;
        let server = spawn_server(&programs, directory.path(), port)?;
        let mut samba = Self { programs, server, port, directory };
        samba.wait_until_it_accepts()?;
        Ok(samba)
    }

    /// Returns where `smbd` listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Returns the directory that is shared: what is written there is served.
    #[must_use]
    pub fn share(&self) -> PathBuf {
        self.directory.path().join("share")
    }

    /// Fetches a file of the share with `smbclient`, through this address: `smbd`'s own, or an edge's. When the future
    /// is dropped, `smbclient` ends.
    ///
    /// # Errors
    /// [`SambaError`] unless the whole file came.
    pub async fn fetch(&self, server: SocketAddr, name: &str) -> Result<Fetched, SambaError> {
        let target = tempfile::NamedTempFile::new_in(self.directory.path())
            .map_err(failed("make a file for smbclient"))?;
        let start = Instant::now();
        let output = tokio::process::Command::new(&self.programs.smbclient)
            .arg(format!("//{}/{SHARE}", server.ip()))
            .args(["-p", &server.port().to_string()])
            .arg("-s")
            .arg(conf::file(self.directory.path()))
            .arg("-A")
            .arg(credentials(self.directory.path()))
            .arg("-c")
            .arg(format!("get \"{name}\" \"{}\"", target.path().display()))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(failed("run smbclient"))?;
        let elapsed = start.elapsed();
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            return Err(SambaError::Program { program: "smbclient", said: tail(&said) });
        }
        let (bytes, sha256) = hash(target.path()).map_err(failed("read what smbclient wrote"))?;
        Ok(Fetched { bytes, sha256, elapsed })
    }

    fn wait_until_it_accepts(&mut self) -> Result<(), SambaError> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if std::net::TcpStream::connect(self.address()).is_ok() {
                return Ok(());
            }
            let ended = self.server.try_wait().map_err(failed("wait for smbd"))?;
            if ended.is_some() || Instant::now() > deadline {
                return Err(SambaError::Program { program: "smbd", said: self.log() });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        let directory = self.directory.path();
        let said = ["out", "log.smbd"].map(|name| fs::read(directory.join(name)).unwrap_or_default());
        tail(&said.concat())
    }
}

impl Drop for Samba {
    fn drop(&mut self) {
        // It leads a process group of its own, so that its children go with it, and no one else.
        if let Ok(group) = i32::try_from(self.server.id()) {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        let _ = self.server.wait();
    }
}

fn spawn_server(programs: &Programs, directory: &Path, port: u16) -> Result<Child, SambaError> {
    let out = File::create(directory.join("out")).map_err(failed("make a log for smbd"))?;
    let error = out.try_clone().map_err(failed("make a log for smbd"))?;
    // A pipe that nobody writes to: when this process is gone, even by SIGKILL, its end tells smbd to end too.
    let stdin = Stdio::piped();
    Command::new(&programs.smbd)
        .args(["--foreground", "--no-process-group", "-p", &port.to_string(), "-s"])
        .arg(conf::file(directory))
        .arg("-l")
        .arg(directory)
        .stdin(stdin)
        .stdout(out)
        .stderr(error)
        // When it ends, smbd signals its whole group, which must not be ours.
        .process_group(0)
        .spawn()
        .map_err(failed("run smbd"))
}

/// Makes the one user, with a password that is in the directory alone.
fn add_user(programs: &Programs, directory: &Path, account: &str) -> Result<(), SambaError> {
    let password = password().map_err(failed("make a password"))?;
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(credentials(directory))
        .and_then(|mut file| write!(file, "username = {account}\npassword = {password}\n"))
        .map_err(failed("write the credentials for smbclient"))?;
    let mut pdbedit = Command::new(&programs.pdbedit)
        .arg("-s")
        .arg(conf::file(directory))
        .args(["-a", "-t", "-u", account])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed("run pdbedit"))?;
    if let Some(mut stdin) = pdbedit.stdin.take() {
        // If it does not read, its exit status tells more than this error.
        let _ = write!(stdin, "{password}\n{password}\n");
    }
    let output = pdbedit.wait_with_output().map_err(failed("run pdbedit"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(SambaError::Program { program: "pdbedit", said: tail(&[output.stdout, output.stderr].concat()) })
}

fn credentials(directory: &Path) -> PathBuf {
    directory.join("credentials")
}

fn password() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Returns the name of the account that runs this process.
fn account_name() -> Result<String, SambaError> {
    let output = Command::new("id").arg("-un").output().map_err(failed("run id"))?;
    let name = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && !name.is_empty() {
        return Ok(name);
    }
    Err(SambaError::Program { program: "id", said: tail(&output.stderr) })
}

/// Returns a port that nobody uses at this moment.
fn free_port() -> Result<u16, SambaError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(failed("find a free port"))
}

fn hash(file: &Path) -> io::Result<(u64, [u8; 32])> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    let mut file = File::open(file)?;
    let mut bytes = 0;
    loop {
        let len = file.read(&mut buffer)?;
        if len == 0 {
            return Ok((bytes, hash.finalize().into()));
        }
        hash.update(&buffer[..len]);
        bytes += len as u64;
    }
}

/// Returns the end of what a program wrote.
fn tail(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(&said[said.len().saturating_sub(800)..]).into_owned();
    text.trim().to_owned()
}

fn failed(action: &'static str) -> impl FnOnce(io::Error) -> SambaError {
    move |source| SambaError::Io { action, source }
}

#[cfg(test)]
mod tests;
