//! Packets on an interface, captured with Wireshark's `dumpcap` and read with `tshark`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::namespace::Namespace;
use crate::process::{Process, run, wait_until};

/// A capture under way.
#[derive(Debug)]
pub struct Capture {
    path: PathBuf,
    process: Process,
}

/// A capture that ended.
#[derive(Debug)]
pub struct Captured {
    path: PathBuf,
}

impl Capture {
    /// Captures an interface of a namespace to a file.
    ///
    /// # Errors
    /// If the capture does not start.
    pub fn start(namespace: &Namespace, interface: &str, path: &Path) -> Result<Self> {
        // The file's header tells that it started; an old file's would too.
        let _ = std::fs::remove_file(path);
        let mut command = namespace.command("dumpcap");
        command.args(["-q", "-i", interface, "-w"]).arg(path);
        let process = namespace.spawn("dumpcap", &mut command)?;
        wait_until("the capture has begun", Duration::from_secs(10), || {
            Ok(path.metadata().is_ok_and(|file| file.len() > 0))
        })?;
        Ok(Self { path: path.to_owned(), process })
    }

    /// Ends the capture once the packets so far are written.
    ///
    /// # Errors
    /// If it does not end.
    pub fn stop(mut self) -> Result<Captured> {
        // The kernel hands packets over in blocks, at the latest after a fraction of a second.
        std::thread::sleep(Duration::from_millis(500));
        self.process.signal(Signal::SIGINT)?;
        self.process.wait(Duration::from_secs(10)).context("end a capture")?;
        Ok(Captured { path: self.path.clone() })
    }
}

impl Captured {
    /// Counts the packets that match a display filter of Wireshark's.
    ///
    /// # Errors
    /// If tshark does not take the filter.
    pub fn count(&self, filter: &str) -> Result<usize> {
        let mut command = Command::new("tshark");
        command.arg("-n").arg("-r").arg(&self.path).args([
            "-Y",
            filter,
            "-T",
            "fields",
            "-e",
            "frame.number",
        ]);
        Ok(run(&mut command, Duration::from_secs(60))?.ok()?.text().lines().count())
    }
}
