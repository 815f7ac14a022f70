//! The policy route of `tproxy`: packets with our mark go to local sockets, whatever their destination.
//!
//! Mark and routing table carry the listener's port in one number of our own, so interceptors do not share them. The
//! kernel does not remove them with the process, but without the nftables rules nothing sets the mark: what a killed
//! process leaves behind is inert, and its next start finds and replaces it.

use std::net::SocketAddr;
use std::process::Output;

use tokio::process::Command;

use super::InterceptError;

/// A rule and a route for each family of the listener.
#[derive(Debug)]
pub(super) struct PolicyRoute {
    number: u32,
    families: Vec<&'static str>,
    applied: bool,
}

impl PolicyRoute {
    /// Returns the mark of packets for the listener on a port, which is the number of its routing table too.
    pub(super) fn mark(port: u16) -> u32 {
        MARK_BASE | u32::from(port)
    }

    pub(super) fn new(port: u16, listeners: &[SocketAddr]) -> Self {
        let families =
            listeners.iter().map(|listener| if listener.is_ipv4() { "-4" } else { "-6" }).collect();
        Self { number: Self::mark(port), families, applied: false }
    }

    /// Adds rule and route, in place of whatever an earlier run left.
    pub(super) async fn apply(&mut self) -> Result<(), InterceptError> {
        self.applied = true;
        for family in self.families.clone() {
            self.remove_leftovers(family).await?;
            for words in self.additions(family) {
                let output = run(&words).await?;
                if !output.status.success() {
                    return Err(rejected(&output));
                }
            }
        }
        Ok(())
    }

    /// Removes rule and route.
    pub(super) async fn remove(&mut self) -> Result<(), InterceptError> {
        for family in self.families.clone() {
            self.remove_leftovers(family).await?;
        }
        self.applied = false;
        Ok(())
    }

    /// A rule can be there several times; the first deletion that fails says that none is left.
    async fn remove_leftovers(&self, family: &'static str) -> Result<(), InterceptError> {
        for _ in 0..LEFTOVERS_MAX {
            if !run(&self.rule(family, "del")).await?.status.success() {
                break;
            }
        }
        run(&self.flush(family)).await.map(|_| ())
    }

    fn additions(&self, family: &'static str) -> [Vec<String>; 2] {
        let table = self.number.to_string();
        let mut rule = self.rule(family, "add");
        rule.extend(words(&["pref", PREFERENCE]));
        [words(&[family, "route", "replace", "local", "default", "dev", "lo", "table", &table]), rule]
    }

    fn rule(&self, family: &'static str, verb: &str) -> Vec<String> {
        let number = self.number.to_string();
        words(&[family, "rule", verb, "fwmark", &number, "lookup", &number])
    }

    fn flush(&self, family: &'static str) -> Vec<String> {
        words(&[family, "route", "flush", "table", &self.number.to_string()])
    }
}

impl Drop for PolicyRoute {
    /// Covers owners that were dropped without a farewell; a few milliseconds, once.
    fn drop(&mut self) {
        if self.applied {
            for family in &self.families {
                for words in [self.rule(family, "del"), self.flush(family)] {
                    let _ = std::process::Command::new(IP).args(words).output();
                }
            }
        }
    }
}

async fn run(words: &[String]) -> Result<Output, InterceptError> {
    Command::new(IP)
        .args(words)
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|source| InterceptError::Program { program: IP, source })
}

fn rejected(output: &Output) -> InterceptError {
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    InterceptError::Rejected { program: IP, task: "the policy route of tproxy", message }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

const IP: &str = "ip";
/// "wt" in the upper half; the lower half is a port.
const MARK_BASE: u32 = 0x7774_0000;
/// Before any rule that would route the packet elsewhere.
const PREFERENCE: &str = "1";
const LEFTOVERS_MAX: usize = 16;
