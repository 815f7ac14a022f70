//! Where most scenarios take place: both servers, an edge on the branch's gateway and a core.
//!
//! Both servers also listen on a port that the edge leaves alone, so a direct read can be measured beside one through Wanigan,
//! in turn and over the same link.

use anyhow::{Result, ensure};
use wanigan_lab::clients::Received;
use wanigan_lab::clients::curl::Curl;
use wanigan_lab::clients::smbclient::SmbClient;
use wanigan_lab::content::{self, Digest};
use wanigan_lab::node::{Mode, Pair, Setup};
use wanigan_lab::servers::nginx::Nginx;
use wanigan_lab::servers::smbd::{Encryption, Signing, Smbd};
use wanigan_lab::topology::Lab;

use super::LIMIT;
use super::measure::{self, Cost};

/// Servers and nodes in a lab with one client at least.
#[derive(Debug)]
pub(crate) struct Scene<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) smbd: Smbd,
    pub(crate) nginx: Nginx,
    pub(crate) pair: Pair<'a>,
}

/// How a client gets to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Path {
    /// Intercepted by the edge.
    Wanigan,
    /// On the port that it leaves alone.
    Direct,
}

/// A protocol to read by, and with it the client: `smbclient` or `curl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Smb,
    Http,
}

impl Protocol {
    pub(crate) const BOTH: [Self; 2] = [Self::Smb, Self::Http];

    /// Returns its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Smb => "SMB",
            Self::Http => "HTTP",
        }
    }

    /// Returns its client's name.
    pub(crate) fn client(self) -> &'static str {
        match self {
            Self::Smb => "smbclient",
            Self::Http => "curl",
        }
    }
}

impl<'a> Scene<'a> {
    /// Starts all. The SMB server requires signing.
    pub(crate) fn start(lab: &'a Lab, encryption: Encryption) -> Result<Self> {
        Self::start_with(lab, encryption, Setup::edge(lab, Mode::Tproxy))
    }

    /// The same with an edge of one's own.
    pub(crate) fn start_with(lab: &'a Lab, encryption: Encryption, edge: Setup<'a>) -> Result<Self> {
        let smbd = Smbd::start(lab, Signing::Required, encryption)?;
        let nginx = Nginx::start(lab)?;
        let pair = Pair::start_with(lab, &Setup::core(lab), edge)?;
        Ok(Self { lab, smbd, nginx, pair })
    }

    /// Returns an `smbclient` of the first client.
    pub(crate) fn smbclient(&self, path: Path) -> SmbClient<'a> {
        let client = SmbClient::new(self.lab.client(0), self.lab.directory());
        match path {
            Path::Wanigan => client,
            Path::Direct => client.port(Smbd::DIRECT_PORT),
        }
    }

    /// Returns a `curl` of the first client.
    pub(crate) fn curl(&self, path: Path) -> Curl<'a> {
        let client = Curl::new(self.lab.client(0), self.lab.directory());
        match path {
            Path::Wanigan => client,
            Path::Direct => client.port(Nginx::DIRECT_PORT),
        }
    }

    /// Puts a file on the server of a protocol.
    pub(crate) fn publish(&self, protocol: Protocol, name: &str, bytes: &[u8]) -> Result<Digest> {
        let directory = match protocol {
            Protocol::Smb => self.smbd.share(),
            Protocol::Http => self.nginx.files(),
        };
        std::fs::write(directory.join(name), bytes)?;
        Ok(Digest::of(bytes))
    }

    /// The same with incompressible bytes, other ones for each seed.
    pub(crate) fn publish_seeded(
        &self,
        protocol: Protocol,
        name: &str,
        seed: u64,
        bytes: usize,
    ) -> Result<Digest> {
        self.publish(protocol, name, &content::bytes(seed, bytes))
    }

    /// Reads a file that was published.
    pub(crate) fn get(&self, protocol: Protocol, path: Path, name: &str) -> Result<Received> {
        match protocol {
            Protocol::Smb => self.smbclient(path).get(name, LIMIT),
            Protocol::Http => self.curl(path).get(name, LIMIT),
        }
    }

    /// Measures such a read.
    pub(crate) fn read(&self, protocol: Protocol, path: Path, name: &str, digest: Digest) -> Result<Cost> {
        measure::files(self.lab, || Ok(vec![(self.get(protocol, path, name)?, digest)]))
    }

    /// Measures a read through Wanigan that must bring all there is over the WAN. What comes after is worth something only
    /// then.
    pub(crate) fn read_cold(
        &self,
        protocol: Protocol,
        name: &str,
        digest: Digest,
        bytes: usize,
    ) -> Result<Cost> {
        let cost = self.read(protocol, Path::Wanigan, name, digest)?;
        ensure!(cost.wan_bytes >= bytes as u64, "{} bytes crossed: it was not cold", cost.wan_bytes);
        Ok(cost)
    }

    /// Looks whether all that was to go through the edge did.
    pub(crate) fn expect_nothing_went_direct(&self) -> Result<()> {
        let direct = self.pair.edge.metric("wanigan_flows_direct_total", "")?;
        ensure!(direct == 0, "{direct} connections went past the link");
        Ok(())
    }
}
