//! A private rsync daemon in the head office: what people use who know that they have an old copy.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::process::Process;
use crate::servers::serve;
use crate::topology::{Lab, SERVER_V4};

/// A running rsync daemon with one module, [`MODULE`], that clients may read and write.
#[derive(Debug)]
pub struct Rsyncd {
    files: PathBuf,
    _process: Process,
}

impl Rsyncd {
    /// Starts the server and waits until it listens.
    ///
    /// # Errors
    /// If it does not.
    pub fn start(lab: &Lab) -> Result<Self> {
        let home = lab.path("rsyncd");
        let files = home.join("files");
        std::fs::create_dir_all(&files).context("make rsync's directories")?;
        let configuration = home.join("rsyncd.conf");
        std::fs::write(&configuration, configuration_text(&home)).context("write rsyncd.conf")?;
        let mut command = lab.server().command("rsync");
        command.args(["--daemon", "--no-detach", "--config"]).arg(&configuration);
        let process = serve(lab, "rsyncd", &mut command, &[SocketAddr::from((SERVER_V4, PORT))])?;
        Ok(Self { files, _process: process })
    }

    /// Returns the module's directory.
    #[must_use]
    pub fn files(&self) -> &Path {
        &self.files
    }
}

fn configuration_text(home: &Path) -> String {
    let home = home.display();
    format!(
        "port = {PORT}\n\
         pid file = {home}/rsyncd.pid\n\
         log file = {home}/rsyncd.log\n\
         use chroot = no\n\
         uid = root\n\
         gid = root\n\
         [{MODULE}]\n\
         path = {home}/files\n\
         read only = no\n"
    )
}

/// The module's name.
pub const MODULE: &str = "files";
/// No edge of the lab intercepts it.
const PORT: u16 = 873;
