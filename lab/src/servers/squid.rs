//! A private Squid on the branch's gateway: what a branch would use instead, for HTTP.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::{Process, run};
use crate::topology::{EDGE_LAN, Lab};

/// A running Squid that caches in memory. It is an explicit proxy: clients name [`Squid::ADDRESS`].
#[derive(Debug)]
pub struct Squid {
    _process: Process,
}

impl Squid {
    /// Where it listens, as seen from the branch.
    pub const ADDRESS: &str = "10.1.0.1:3128";

    /// Starts the proxy and waits until it listens.
    ///
    /// # Errors
    /// If it does not.
    pub fn start(lab: &Lab) -> Result<Self> {
        let home = lab.path("squid");
        std::fs::create_dir_all(&home).context("make squid's directory")?;
        let configuration = home.join("squid.conf");
        std::fs::write(&configuration, configuration_text(&home)).context("write squid.conf")?;
        // Squid gives up root for this user of Debian's package, and writes as that one.
        let mut chown = std::process::Command::new("chown");
        run(chown.arg("-R").arg("proxy:proxy").arg(&home), Duration::from_secs(10))?.ok()?;
        let mut command = lab.edge().command("squid");
        command.args(["-N", "-f"]).arg(&configuration);
        let process = lab.edge().spawn("squid", &mut command)?;
        lab.client(0).wait_for_port(SocketAddr::from((EDGE_LAN, 3128)), Duration::from_secs(30))?;
        Ok(Self { _process: process })
    }
}

fn configuration_text(home: &Path) -> String {
    let home = home.display();
    format!(
        "http_port 3128\n\
         visible_hostname lab\n\
         http_access allow all\n\
         cache_effective_user proxy\n\
         cache_mem 512 MB\n\
         maximum_object_size_in_memory 256 MB\n\
         maximum_object_size 256 MB\n\
         pid_filename {home}/squid.pid\n\
         access_log none\n\
         cache_log {home}/cache.log\n\
         coredump_dir {home}\n\
         netdb_filename none\n\
         pinger_enable off\n\
         dns_nameservers 127.0.0.1\n\
         shutdown_lifetime 0 seconds\n\
         max_filedescriptors 4096\n"
    )
}
