//! Packets on an interface, captured with Wireshark's `dumpcap`, read with `tshark` or searched as bytes.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::namespace::Namespace;
use crate::process::{Process, run, wait_until};

mod needles;

pub use needles::Needles;

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

/// A UDP datagram of a capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// Who sent it.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// From which port.
    pub source_port: u16,
    /// To which port.
    pub destination_port: u16,
    /// What is in it.
    pub payload: Vec<u8>,
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
        // The buffer is the kernel's: what comes while the disk is busy waits there, a scenario's worth of it.
        command.args(["-q", "-B", "512", "-i", interface, "-w"]).arg(path);
        let process = namespace.spawn("dumpcap", &mut command)?;
        wait_until("the capture has begun", Duration::from_secs(10), || {
            Ok(path.metadata().is_ok_and(|file| file.len() > 0))
        })?;
        Ok(Self { path: path.to_owned(), process })
    }

    /// Ends the capture once the packets so far are written.
    ///
    /// # Errors
    /// If it does not end, or missed packets.
    pub fn stop(mut self) -> Result<Captured> {
        // The kernel hands packets over in blocks, at the latest after a fraction of a second.
        std::thread::sleep(Duration::from_millis(500));
        self.process.signal(Signal::SIGINT)?;
        self.process.wait(Duration::from_secs(10)).context("end a capture")?;
        // Its last word: "Packets received/dropped on interface 'lan0': 1234/0 (pcap:0/…".
        let log = self.process.log();
        let (_, counts) = log.rsplit_once("': ").context("find the capture's counts")?;
        let missed = counts.split(['/', ' ']).nth(1).context("find what it missed")?;
        ensure!(missed == "0", "the capture missed {missed} packets");
        Ok(Captured { path: self.path.clone() })
    }
}

impl Captured {
    /// Returns the size of the capture's file.
    ///
    /// # Errors
    /// If it is gone.
    pub fn bytes(&self) -> Result<u64> {
        Ok(self.path.metadata().context("look at the capture")?.len())
    }

    /// Returns the names of those needles that the capture has somewhere.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn search(&self, needles: &Needles) -> Result<Vec<String>> {
        needles.find_in(&self.path)
    }

    /// Counts the packets that match a display filter of Wireshark's.
    ///
    /// # Errors
    /// If tshark does not take the filter.
    pub fn count(&self, filter: &str) -> Result<usize> {
        Ok(self.fields(filter, &["frame.number"])?.lines().count())
    }

    /// Returns the UDP datagrams to or from a port, in their order.
    ///
    /// # Errors
    /// If tshark fails.
    pub fn datagrams(&self, port: u16) -> Result<Vec<Datagram>> {
        let names = ["ip.src", "ip.dst", "ipv6.src", "ipv6.dst", "udp.srcport", "udp.dstport", "udp.payload"];
        // With the checks of "icmp": what an error message quotes is no datagram.
        let text = self.fields(&format!("udp.port == {port} && !icmp && !icmpv6"), &names)?;
        text.lines().map(datagram).collect()
    }

    /// Returns a line of tab-separated fields for each packet that matches.
    fn fields(&self, filter: &str, names: &[&str]) -> Result<String> {
        let mut command = Command::new("tshark");
        command.arg("-n").arg("-r").arg(&self.path).args(["-Y", filter, "-T", "fields"]);
        for name in names {
            command.args(["-e", name]);
        }
        Ok(run(&mut command, Duration::from_secs(60))?.ok()?.text())
    }
}

fn datagram(line: &str) -> Result<Datagram> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [v4_source, v4_destination, v6_source, v6_destination, source_port, destination_port, payload] =
        fields[..]
    else {
        anyhow::bail!("tshark said {line:?}");
    };
    let address = |v4: &str, v6: &str| format!("{v4}{v6}").parse().with_context(|| format!("read {line:?}"));
    Ok(Datagram {
        source: address(v4_source, v6_source)?,
        destination: address(v4_destination, v6_destination)?,
        source_port: source_port.parse().context("read a port")?,
        destination_port: destination_port.parse().context("read a port")?,
        payload: unhex(payload).context("read a payload")?,
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> =
        text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect::<Option<_>>()?;
    digits.chunks(2).map(|pair| (pair.len() == 2).then(|| pair[0] << 4 | pair[1])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_read_off_tsharks_line() {
        let read = datagram("\t\tfe80::1\tff02::7747\t4000\t7747\t57e0ff").unwrap();
        assert_eq!(read.destination, "ff02::7747".parse::<IpAddr>().unwrap());
        assert_eq!((read.source_port, read.payload), (4000, vec![0x57, 0xe0, 0xff]));
        assert!(datagram("10.0.0.1\t\t\t\t4000\t7747\t5").is_err());
    }
}
