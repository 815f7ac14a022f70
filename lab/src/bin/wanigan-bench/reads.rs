//! The first table: whole files and small ones, cold and warm, directly, through Squid and through Wanigan, and what several
//! edges do for each other.
//!
//! One lab for all three columns, one after the other: the same servers, files, clients and link. What needs several edges
//! comes first, in labs of its own.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use wanigan_lab::clients::curl::Curl;
use wanigan_lab::clients::smbclient::SmbClient;
use wanigan_lab::content::{self, Digest};
use wanigan_lab::node::{Memory, Mode, Node, Pair};
use wanigan_lab::servers::nginx::Nginx;
use wanigan_lab::servers::smbd::{Encryption, Signing, Smbd};
use wanigan_lab::servers::squid::Squid;
use wanigan_lab::topology::Lab;

use super::LIMIT;
use super::measure::{self, Cost, in_a_lab, median, settled};
use super::peers::{self, Alone, Peers};
use super::report::Report;

/// Measures the scenario.
pub(crate) fn measure(bytes: usize) -> Result<Report> {
    let peers = peers::measure(bytes)?;
    in_a_lab(2, |lab| Bench::new(lab, bytes)?.run(&peers))
}

/// Each scenario through one arrangement; absent where it does not apply.
#[derive(Debug, Default)]
struct Column {
    smb_tiny: Option<Cost>,
    smb_cold: Option<Cost>,
    smb_warm: Option<Cost>,
    http_cold: Option<Cost>,
    http_warm: Option<Cost>,
    http_small: Option<Cost>,
    http_second_edge: Option<Cost>,
    http_eight_edges: Option<Cost>,
}

/// Names a row of a column.
type Pick = fn(&Column) -> Option<Cost>;

struct Bench<'a> {
    lab: &'a Lab,
    bytes: usize,
    _smbd: Smbd,
    _nginx: Nginx,
    smb_file: Digest,
    smb_tiny: Digest,
    http_file: Digest,
    http_small: Vec<(String, Digest)>,
}

impl<'a> Bench<'a> {
    fn new(lab: &'a Lab, bytes: usize) -> Result<Self> {
        let smbd = Smbd::start(lab, Signing::Required, Encryption::Off)?;
        let nginx = Nginx::start(lab)?;
        let smb_file = content::write(&smbd.share().join("file"), 1, bytes)?;
        let smb_tiny = content::write(&smbd.share().join("tiny"), 2, TINY)?;
        // Other content than by SMB, or the first HTTP read would find it in the branch.
        let http_file = content::write(&nginx.files().join("file"), 3, bytes)?;
        let small = |number| {
            let name = format!("small{number}");
            let digest = content::write(&nginx.files().join(&name), 100 + number, SMALL)?;
            Ok((name, digest))
        };
        let http_small = (0..SMALL_FILES).map(small).collect::<Result<_>>()?;
        look_old(nginx.files())?;
        Ok(Self { lab, bytes, _smbd: smbd, _nginx: nginx, smb_file, smb_tiny, http_file, http_small })
    }

    fn run(&self, peers: &Peers) -> Result<Report> {
        let direct = self.direct()?;
        let squid = self.squid()?;
        let pair = Pair::start(self.lab, Mode::Tproxy, Memory::PLENTY)?;
        let (idle, before) = (settled(self.lab), pair.reported_wan_bytes()?);
        let wanigan = Column {
            http_second_edge: Some(peers.second),
            http_eight_edges: Some(peers.eight),
            ..self.wanigan()?
        };
        let counted = settled(self.lab) - idle;
        let reported = pair.reported_wan_bytes()? - before;
        let went_direct = pair.edge.metric("wanigan_flows_direct_total", "")?;
        ensure!(went_direct == 0, "{went_direct} connections went past the link");
        let mut report = self.report(&direct, &squid, &wanigan)?;
        report.note(format!("Reported WAN bytes {reported}, counted by the link {counted}."));
        report.note(told("Edge", &pair.edge)?);
        report.note(told("Core", &pair.core)?);
        report.note(format!("Blocks asked for on an empty LAN: {}.", peers.alone.asked));
        self.judge(&mut report, &direct, &wanigan, &peers.alone);
        let off = reported.abs_diff(counted) as f64 / counted as f64 * 100.0;
        report
            .target(off <= 1.0, format!("reported WAN bytes are {off:.3} % off the link's own, at most 1 %"));
        Ok(report)
    }

    fn direct(&self) -> Result<Column> {
        let (smb, http) = (self.smb(0, "file", self.smb_file)?, self.http(0, &[])?);
        Ok(Column {
            smb_tiny: Some(median(|| self.smb(0, "tiny", self.smb_tiny))?),
            smb_cold: Some(smb),
            smb_warm: Some(smb),
            http_cold: Some(http),
            http_warm: Some(http),
            http_small: Some(median(|| self.http_small(0, &[]))?),
            // To the server it is one more client. Eight at once would take eight times as long.
            http_second_edge: Some(http),
            http_eight_edges: None,
        })
    }

    fn squid(&self) -> Result<Column> {
        let _squid = Squid::start(self.lab)?;
        let proxy = ["--proxy", Squid::ADDRESS];
        let http_cold = Some(self.http(0, &proxy)?);
        self.http_small(0, &proxy)?;
        Ok(Column {
            http_cold,
            http_warm: Some(median(|| self.http(1, &proxy))?),
            http_small: Some(median(|| self.http_small(1, &proxy))?),
            ..Column::default()
        })
    }

    fn wanigan(&self) -> Result<Column> {
        let smb_tiny = Some(median(|| self.smb(0, "tiny", self.smb_tiny))?);
        let smb_cold = Some(self.smb(0, "file", self.smb_file)?);
        let smb_warm = Some(median(|| self.smb(1, "file", self.smb_file))?);
        let http_cold = Some(self.http(0, &[])?);
        let http_warm = Some(median(|| self.http(1, &[]))?);
        self.http_small(0, &[])?;
        let http_small = Some(median(|| self.http_small(1, &[]))?);
        Ok(Column { smb_tiny, smb_cold, smb_warm, http_cold, http_warm, http_small, ..Column::default() })
    }

    fn smb(&self, client: usize, name: &str, digest: Digest) -> Result<Cost> {
        measure::files(self.lab, || {
            let received = SmbClient::new(self.lab.client(client), self.lab.directory()).get(name, LIMIT)?;
            Ok(vec![(received, digest)])
        })
    }

    fn http(&self, client: usize, options: &[&str]) -> Result<Cost> {
        measure::files(self.lab, || {
            let curl = Curl::new(self.lab.client(client), self.lab.directory()).options(options);
            Ok(vec![(curl.get("file", LIMIT)?, self.http_file)])
        })
    }

    fn http_small(&self, client: usize, options: &[&str]) -> Result<Cost> {
        measure::files(self.lab, || {
            let curl = Curl::new(self.lab.client(client), self.lab.directory()).options(options);
            let names: Vec<String> = self.http_small.iter().map(|(name, _)| name.clone()).collect();
            let received = curl.get_all(&names, LIMIT)?;
            Ok(received.into_iter().zip(self.http_small.iter().map(|(_, digest)| *digest)).collect())
        })
    }

    fn report(&self, direct: &Column, squid: &Column, wanigan: &Column) -> Result<Report> {
        let about = format!(
            "File of {} MiB, tiny file of {} KiB, small files of {} KiB; long rows once. Bytes as a share of the content.",
            self.bytes >> 20,
            TINY >> 10,
            SMALL >> 10
        );
        let heads = &["scenario", "direct", "Squid", "Wanigan", "Wanigan to direct: time, bytes"];
        let mut report = Report::new(about, heads);
        let small = SMALL * usize::try_from(SMALL_FILES).context("a count fits")?;
        let rows: [(&str, usize, Pick); 8] = [
            ("SMB tiny file", TINY, |column| column.smb_tiny),
            ("SMB cold", self.bytes, |column| column.smb_cold),
            ("SMB warm, another client", self.bytes, |column| column.smb_warm),
            ("HTTP cold", self.bytes, |column| column.http_cold),
            ("HTTP warm, another client", self.bytes, |column| column.http_warm),
            ("HTTP 100 small files warm, one connection", small, |column| column.http_small),
            ("HTTP first read of a second edge on the LAN", self.bytes, |column| column.http_second_edge),
            ("HTTP eight edges open one new file at once", self.bytes, |column| column.http_eight_edges),
        ];
        for (name, content, cost) in rows {
            let cells = [direct, squid, wanigan].map(|column| cell(cost(column), content));
            let ratio = ratio(cost(wanigan), cost(direct));
            report.row([name.to_owned()].into_iter().chain(cells).chain([ratio]));
        }
        Ok(report)
    }

    /// Holds the figures against the targets.
    fn judge(&self, report: &mut Report, direct: &Column, wanigan: &Column, alone: &Alone) {
        let pairs = [
            ("SMB", direct.smb_cold, wanigan.smb_cold, wanigan.smb_warm),
            ("HTTP", direct.http_cold, wanigan.http_cold, wanigan.http_warm),
        ];
        let mut target = |met: bool, what: String| report.target(met, what);
        for (name, direct, cold, warm) in pairs {
            let (Some(direct), Some(cold), Some(warm)) = (direct, cold, warm) else { continue };
            let time = cold.seconds / direct.seconds;
            target(time <= 1.10, format!("{name} cold takes {time:.3} of the direct time, at most 1.10"));
            let bytes = cold.wan_bytes as f64 / direct.wan_bytes as f64;
            target(bytes <= 1.02, format!("{name} cold takes {bytes:.4} of the direct bytes, at most 1.02"));
            let share = warm.wan_bytes as f64 / self.bytes as f64 * 100.0;
            target(
                share <= 1.0,
                format!("{name} warm takes {share:.3} % of the file on the WAN, at most 1 %"),
            );
            let faster = direct.seconds / warm.seconds;
            target(
                faster >= 10.0,
                format!("{name} warm is {faster:.1} times faster than direct, at least 10"),
            );
        }
        if let (Some(second), Some(eight)) = (wanigan.http_second_edge, wanigan.http_eight_edges) {
            let share = second.wan_bytes as f64 / self.bytes as f64 * 100.0;
            target(
                share <= 1.0,
                format!("a second edge's first read takes {share:.3} % of the file on the WAN, at most 1 %"),
            );
            let copies = eight.wan_bytes as f64 / self.bytes as f64;
            target(
                copies <= 1.3,
                format!("eight edges opening one new file take {copies:.3} copies on the WAN, at most 1.3"),
            );
        }
        let cost = alone.with / alone.without;
        target(
            cost <= 1.01,
            format!("discovery on an empty LAN takes {cost:.4} of the time without it, at most 1.01"),
        );
    }
}

/// Squid's best case: what was not changed for years it serves without asking the server.
fn look_old(directory: &Path) -> Result<()> {
    for entry in std::fs::read_dir(directory).context("list the files")? {
        let file =
            File::options().write(true).open(entry.context("list a file")?.path()).context("open a file")?;
        file.set_modified(UNIX_EPOCH + Duration::from_secs(1_500_000_000)).context("make a file look old")?;
    }
    Ok(())
}

fn cell(cost: Option<Cost>, content: usize) -> String {
    cost.map_or_else(String::new, |cost| cost.cell(content))
}

fn ratio(cost: Option<Cost>, direct: Option<Cost>) -> String {
    let Some((time, bytes)) = cost.zip(direct).map(|(cost, direct)| cost.to(direct)) else {
        return String::new();
    };
    format!("{time:.3}, {bytes:.4}")
}

fn told(name: &str, node: &Node<'_>) -> Result<String> {
    let memory = node.peak_memory()? >> 20;
    let processor = node.cpu_time()?.as_secs_f64();
    Ok(format!("{name}: peak memory {memory} MiB, {processor:.1} s of processor time."))
}

const TINY: usize = 4 << 10;
const SMALL: usize = 16 << 10;
const SMALL_FILES: u64 = 100;
