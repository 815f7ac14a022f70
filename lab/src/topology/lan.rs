//! What befalls a host of the branch: its cable is pulled, its line gets slow, its LAN speaks one version of IP only.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{Family, Lab};
use crate::capture::Capture;
use crate::namespace::Namespace;

impl Lab {
    /// Pulls a host's cable: nothing comes or goes, and nobody is told.
    ///
    /// # Errors
    /// If it is no host of the branch.
    pub fn unplug(&self, host: &Namespace) -> Result<()> {
        self.edge().ip(&format!("link set {} down", self.port(host)?))
    }

    /// Plugs it in again.
    ///
    /// # Errors
    /// As [`Lab::unplug`].
    pub fn plug_in(&self, host: &Namespace) -> Result<()> {
        self.edge().ip(&format!("link set {} up", self.port(host)?))
    }

    /// Limits what a host sends, in kbit/s. What it receives keeps its speed.
    ///
    /// # Errors
    /// If the kernel has no token bucket filter.
    pub fn throttle(&self, host: &Namespace, kbit: u64) -> Result<()> {
        // The filter is looked at some hundred times a second, so a burst is what a hundredth of a second lets pass.
        let burst = (kbit * 1000 / 8 / 100).max(4096);
        let (rate, burst) = (format!("{kbit}kbit"), burst.to_string());
        let words = ["tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", "rate"];
        let rest = [rate.as_str(), "burst", burst.as_str(), "latency", "200ms"];
        host.run(&[&words[..], &rest].concat(), SOON)?.ok().context("throttle a host")?;
        Ok(())
    }

    /// Takes the other version of IP from the branch's hosts: what they say to each other is in this one.
    ///
    /// # Errors
    /// If an interface does not take it.
    pub fn only(&self, family: Family) -> Result<()> {
        for host in self.clients.iter().chain(&self.gateways).chain(&self.behind).chain(&self.remote) {
            match family {
                Family::V4 => host.sysctl(&[("ipv6/conf/eth0/disable_ipv6", "1")])?,
                Family::V6 => {
                    host.run(&["ip", "-4", "address", "flush", "dev", "eth0"], SOON)?.ok()?;
                }
            }
        }
        Ok(())
    }

    /// Captures all that crosses the LAN, between its hosts too, to `NAME.pcapng`.
    ///
    /// # Errors
    /// As [`Capture::start`].
    pub fn capture_lan(&self, name: &str) -> Result<Capture> {
        // A bridge whose own device listens to everything is handed all that it forwards.
        Capture::start(self.edge(), "lan0", &self.path(&format!("{name}.pcapng")))
    }

    /// Returns the name of a host's port at the edge: the end of its own.
    fn port<'n>(&self, host: &'n Namespace) -> Result<&'n str> {
        let prefix = format!("{}-", self.instance.name());
        host.name().strip_prefix(&prefix).context("find a host's port")
    }
}

const SOON: Duration = Duration::from_secs(10);
