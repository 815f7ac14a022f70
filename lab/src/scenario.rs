//! How a lab test runs: what it needs is looked for, a lab is built, and when it fails all logs are shown.
//!
//! The standard test harness has no way to skip at run time. So a test that lacks something *passes* there, and writes a line
//! to the file that the environment variable `WANIGAN_SKIPPED` names; `lab/run-tests.sh` takes such tests out of the passed
//! ones and shows them in its closing line.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::clients::python;
use crate::process::run;
use crate::servers::smbd;
use crate::topology::{Hosts, Lab};
use crate::wan::Shape;

/// Runs the body of a lab test.
///
/// `scenario!(["smbd", "wanigan"], clients, shape, |lab| { …; Ok(()) })`: the programs it needs (`wanigan` is the built
/// binary, `lab-python` the environment of [`crate::clients::python`], `samba-vfs` Samba's modules), how many clients or which [`Hosts`], the WAN's [`Shape`], and a closure that gets the `&Lab` and returns `anyhow::Result<()>`.
#[macro_export]
macro_rules! scenario {
    ([$($need:literal),* $(,)?], $hosts:expr, $shape:expr, $body:expr) => {{
        fn here() {}
        let name = std::any::type_name_of_val(&here).trim_end_matches("::here");
        $crate::scenario::play(name, &[$($need),*], $hosts, $shape, $body)
    }};
}

/// What [`scenario!`] calls.
///
/// # Panics
/// If the test fails.
pub fn play(
    name: &str,
    needs: &[&str],
    hosts: impl Into<Hosts>,
    shape: Shape,
    body: impl FnOnce(&Lab) -> Result<()>,
) {
    if let Some(missing) = missing(needs) {
        skip(name, &missing);
        return;
    }
    let lab = Lab::new(hosts, shape).unwrap_or_else(|error| panic!("failed to build the lab: {error:#}"));
    if let Err(error) = body(&lab) {
        eprintln!("{}", lab.logs());
        panic!("{error:#}");
    }
}

/// Returns what a lab needs and this machine does not have.
#[must_use]
pub fn missing(needs: &[&str]) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("root".to_owned());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("/dev/net/tun".to_owned());
    }
    ["ip"].iter().chain(needs).find(|need| !is_there(need)).map(|need| (*need).to_owned())
}

/// Returns the path of the `wanigan` command: `WANIGAN_BIN`, or the one built beside the running test.
///
/// # Errors
/// If there is none, or it is not one that can `run`.
pub fn wanigan() -> Result<PathBuf> {
    let path = match std::env::var_os("WANIGAN_BIN") {
        Some(path) => PathBuf::from(path),
        None => std::env::current_exe()
            .context("find this program")?
            .ancestors()
            .skip(1)
            .take(2)
            .map(|directory| directory.join("wanigan"))
            .find(|path| path.is_file())
            .context("find wanigan beside this program: build it first, or set WANIGAN_BIN")?,
    };
    let help = run(Command::new(&path).args(["run", "--help"]), Duration::from_secs(10))?.ok()?.text();
    anyhow::ensure!(help.contains("-c"), "{} has no `run -c FILE`", path.display());
    Ok(path)
}

fn is_there(need: &str) -> bool {
    if need == "wanigan" {
        return wanigan().is_ok();
    }
    if need == python::NEED {
        return python::interpreter().is_some();
    }
    if need == smbd::MODULES_NEED {
        return smbd::has_modules();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .any(|directory| directory.join(need).is_file())
}

fn skip(name: &str, missing: &str) {
    eprintln!("skipped: {name} needs {missing}");
    let Some(path) = std::env::var_os("WANIGAN_SKIPPED") else {
        return;
    };
    let written = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .and_then(|mut file| writeln!(file, "{name} needs {missing}"));
    // A skip that cannot be recorded would count as passed.
    written.unwrap_or_else(|error| panic!("failed to record a skipped test: {error}"));
}
