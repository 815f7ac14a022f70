//! The benchmark: what a branch waits and what crosses its WAN, directly, through Wanigan, and through what it would use
//! instead.
//!
//! Each scenario builds labs of its own and gives a [`Report`]: a table in Markdown and targets. What is compared was measured
//! in one run, in one lab wherever it can be. `wanigan-bench [MIB] [SCENARIO]...` measures these scenarios, or all of them,
//! with another file size than 64 MiB where the scenario does not set its own; the targets are meant for that one. Prints the
//! tables as they come, then all targets with what was measured, and fails where one is missed.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use wanigan_lab::clients::programs::Program;
use wanigan_lab::scenario;
use wanigan_lab::wan::Shape;

mod ask_or_push;
mod cold;
mod eight_clients;
mod inserts;
mod measure;
mod peers;
mod reads;
mod report;
mod same_content;
mod scene;
mod small_files;
mod text;
mod warm;

use report::{Report, Target};

/// A scenario's name, and what measures it with files of so many bytes.
type Scenario = (&'static str, fn(usize) -> Result<Report>);

const SCENARIOS: [Scenario; 9] = [
    ("reads", reads::measure),
    ("eight-clients", eight_clients::measure),
    ("inserts", inserts::measure),
    ("warm", warm::measure),
    ("same-content", same_content::measure),
    ("cold", cold::measure),
    ("text", text::measure),
    ("small-files", small_files::measure),
    ("ask-or-push", ask_or_push::measure),
];

fn main() -> Result<()> {
    let (mib, chosen) = arguments()?;
    let missing = scenario::missing(&NEEDS).or_else(|| scenario::missing(&Program::NEEDS));
    if let Some(missing) = missing {
        bail!("{missing} is missing: `sh lab/install-deps.sh` installs what the lab needs");
    }
    println!("{}", machine()?);
    let (mut targets, mut failed) = (Vec::new(), Vec::new());
    for (name, measure) in chosen {
        eprintln!("{name}:");
        // One that fails must not take the others' half hour with it.
        match measure(mib << 20) {
            Ok(report) => targets.extend(report.print()),
            Err(error) => {
                eprintln!("{name} failed: {error:#}");
                failed.push(name);
            }
        }
    }
    let missed = judge(&targets);
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    ensure!(missed == 0, "{missed} targets missed");
    Ok(())
}

fn arguments() -> Result<(usize, Vec<Scenario>)> {
    let (mut mib, mut chosen) = (64, Vec::new());
    for word in std::env::args().skip(1) {
        if let Ok(number) = word.parse() {
            mib = number;
        } else if let Some(scenario) = SCENARIOS.iter().find(|(name, _)| *name == word) {
            chosen.push(*scenario);
        } else {
            let names = SCENARIOS.map(|(name, _)| name).join(", ");
            bail!("{word:?} is neither a number of MiB nor one of {names}");
        }
    }
    Ok((mib, if chosen.is_empty() { SCENARIOS.to_vec() } else { chosen }))
}

fn machine() -> Result<String> {
    let kernel =
        std::fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel's version")?;
    let processors = std::thread::available_parallelism().context("count processors")?;
    Ok(format!(
        "20 Mbit/s, 50 ms round trip, no loss; {processors} processors for all, Linux {}. Seconds, and bytes on the WAN both \
         ways with all headers, by the link's own counters; medians of three where nothing else is said.",
        kernel.trim()
    ))
}

/// Prints what was aimed at, and returns how much was missed.
fn judge(targets: &[Target]) -> usize {
    if !targets.is_empty() {
        println!("\nTargets:\n");
    }
    for target in targets {
        println!("- {}: {}", if target.met { "met" } else { "MISSED" }, target.what);
    }
    targets.iter().filter(|target| !target.met).count()
}

const WAN: Shape = Shape::new(20, Duration::from_millis(50));
const LIMIT: Duration = Duration::from_secs(600);
const NEEDS: [&str; 10] =
    ["smbd", "smbpasswd", "smbclient", "nginx", "curl", "squid", "nft", "rsync", "zstd", "wanigan"];
