//! The benchmark: what a branch waits and what crosses its WAN, directly, through Squid and through Wanigan.
//!
//! One lab, one run: the same servers, files, clients and link for all columns, one after the other; what several edges do
//! for each other comes first, in labs of its own. Prints a table in
//! Markdown, then the targets with what was measured, and fails where one is missed. `wanigan-bench [MIB]` takes another
//! file size than 64 MiB; the targets are meant for that one.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use wanigan_lab::clients::Received;
use wanigan_lab::clients::curl::Curl;
use wanigan_lab::clients::smbclient::SmbClient;
use wanigan_lab::content::{self, Digest};
use wanigan_lab::node::{Memory, Mode, Node, Pair};
use wanigan_lab::scenario;
use wanigan_lab::servers::nginx::Nginx;
use wanigan_lab::servers::smbd::{Encryption, Signing, Smbd};
use wanigan_lab::servers::squid::Squid;
use wanigan_lab::topology::Lab;
use wanigan_lab::wan::Shape;

mod peers;

use peers::{Alone, Peers};

fn main() -> Result<()> {
    let mib = match std::env::args().nth(1) {
        Some(text) => text.parse().with_context(|| format!("read {text:?} as a number of MiB"))?,
        None => 64,
    };
    let needs = ["smbd", "smbpasswd", "smbclient", "nginx", "curl", "squid", "nft", "wanigan"];
    ensure!(scenario::missing(&needs).is_none(), "missing: {:?}", scenario::missing(&needs));
    let peers = peers::measure(mib << 20)?;
    let lab = Lab::new(2, WAN)?;
    let result = Bench::new(&lab, mib << 20).and_then(|bench| bench.run(&peers));
    if result.is_err() {
        eprintln!("{}", lab.logs());
    }
    result
}

/// What one transfer took.
#[derive(Debug, Clone, Copy)]
struct Cost {
    seconds: f64,
    /// Bytes that entered the link, both ways together.
    wan_bytes: u64,
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

    fn run(&self, peers: &Peers) -> Result<()> {
        let direct = self.direct()?;
        let squid = self.squid()?;
        let pair = Pair::start(self.lab, Mode::Tproxy, Memory::PLENTY)?;
        let before = (pair.reported_wan_bytes()?, self.lab.wan().counters().entered_bytes());
        let wanigan = Column {
            http_second_edge: Some(peers.second),
            http_eight_edges: Some(peers.eight),
            ..self.wanigan()?
        };
        let counted = self.settled() - before.1;
        let reported = pair.reported_wan_bytes()? - before.0;
        let went_direct = pair.edge.metric("wanigan_flows_direct_total", "")?;
        ensure!(went_direct == 0, "{went_direct} connections went past the link");
        self.print_table(&direct, &squid, &wanigan)?;
        println!("\nReported WAN bytes {reported}, counted by the link {counted}.");
        print_node("Edge", &pair.edge)?;
        print_node("Core", &pair.core)?;
        println!("Blocks asked for on an empty LAN: {}.", peers.alone.asked);
        self.judge(&direct, &wanigan, &peers.alone, reported, counted)
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
        self.measure(|| {
            let received = SmbClient::new(self.lab.client(client), self.lab.directory()).get(name, LIMIT)?;
            Ok((received.took, vec![(received, digest)]))
        })
    }

    fn http(&self, client: usize, options: &[&str]) -> Result<Cost> {
        self.measure(|| {
            let curl = Curl::new(self.lab.client(client), self.lab.directory()).options(options);
            let received = curl.get("file", LIMIT)?;
            Ok((received.took, vec![(received, self.http_file)]))
        })
    }

    fn http_small(&self, client: usize, options: &[&str]) -> Result<Cost> {
        self.measure(|| {
            let curl = Curl::new(self.lab.client(client), self.lab.directory()).options(options);
            let names: Vec<String> = self.http_small.iter().map(|(name, _)| name.clone()).collect();
            let received = curl.get_all(&names, LIMIT)?;
            let took = received.first().context("there are files")?.took;
            Ok((took, received.into_iter().zip(self.http_small.iter().map(|(_, digest)| *digest)).collect()))
        })
    }

    /// Counts what crosses until the link is quiet again; a transfer that brought wrong bytes counts for nothing.
    fn measure(
        &self,
        transfer: impl FnOnce() -> Result<(Duration, Vec<(Received, Digest)>)>,
    ) -> Result<Cost> {
        let before = self.settled();
        let (took, files) = transfer()?;
        let wan_bytes = self.settled() - before;
        files.iter().try_for_each(|(received, digest)| received.expect(*digest))?;
        eprintln!("  {:.2} s, {wan_bytes} bytes", took.as_secs_f64());
        Ok(Cost { seconds: took.as_secs_f64(), wan_bytes })
    }

    fn settled(&self) -> u64 {
        self.lab.wan().settled(Duration::from_millis(300)).entered_bytes()
    }

    fn print_table(&self, direct: &Column, squid: &Column, wanigan: &Column) -> Result<()> {
        let kernel =
            std::fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel's version")?;
        let processors = std::thread::available_parallelism().context("count processors")?;
        println!(
            "20 Mbit/s, 50 ms round trip, no loss; file of {} MiB, tiny file of {} KiB, small files of {} KiB; {processors} \
             processors for all, Linux {}. Seconds, and bytes on the WAN both ways as a share of the content.\n",
            self.bytes >> 20,
            TINY >> 10,
            SMALL >> 10,
            kernel.trim()
        );
        println!("| scenario | direct | Squid | Wanigan | Wanigan to direct: time, bytes |");
        println!("|---|---|---|---|---|");
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
            println!("| {name} | {} | {} |", cells.join(" | "), ratio(cost(wanigan), cost(direct)));
        }
        Ok(())
    }

    /// Holds the figures against the targets.
    fn judge(
        &self,
        direct: &Column,
        wanigan: &Column,
        alone: &Alone,
        reported: u64,
        counted: u64,
    ) -> Result<()> {
        let pairs = [
            ("SMB", direct.smb_cold, wanigan.smb_cold, wanigan.smb_warm),
            ("HTTP", direct.http_cold, wanigan.http_cold, wanigan.http_warm),
        ];
        let mut missed = 0;
        let mut target = |met: bool, what: String| {
            println!("- {}: {what}", if met { "met" } else { "MISSED" });
            missed += u32::from(!met);
        };
        println!("\nTargets:\n");
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
        let off = reported.abs_diff(counted) as f64 / counted as f64 * 100.0;
        target(off <= 1.0, format!("reported WAN bytes are {off:.3} % off the link's own, at most 1 %"));
        ensure!(missed == 0, "{missed} targets missed");
        Ok(())
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
    cost.map_or_else(String::new, |cost| {
        format!("{:.2} s, {:.2} %", cost.seconds, cost.wan_bytes as f64 / content as f64 * 100.0)
    })
}

fn ratio(cost: Option<Cost>, direct: Option<Cost>) -> String {
    match (cost, direct) {
        (Some(cost), Some(direct)) => format!(
            "{:.3}, {:.4}",
            cost.seconds / direct.seconds,
            cost.wan_bytes as f64 / direct.wan_bytes as f64
        ),
        _ => String::new(),
    }
}

/// Returns the run with the middle time of three.
fn median(mut run: impl FnMut() -> Result<Cost>) -> Result<Cost> {
    let mut costs = [run()?, run()?, run()?];
    costs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    Ok(costs[1])
}

fn print_node(name: &str, node: &Node<'_>) -> Result<()> {
    let memory = node.peak_memory()? >> 20;
    println!("{name}: peak memory {memory} MiB, {:.1} s of processor time.", node.cpu_time()?.as_secs_f64());
    Ok(())
}

const WAN: Shape = Shape::new(20, Duration::from_millis(50));
const LIMIT: Duration = Duration::from_secs(600);
const TINY: usize = 4 << 10;
const SMALL: usize = 16 << 10;
const SMALL_FILES: u64 = 100;
