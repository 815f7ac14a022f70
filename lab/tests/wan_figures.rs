//! What the nodes report is what crossed the link.

use std::time::Duration;

use anyhow::{Result, ensure};
use wanigan_lab::clients::curl::Curl;
use wanigan_lab::clients::smbclient::SmbClient;
use wanigan_lab::content;
use wanigan_lab::node::{Memory, Mode, Pair};
use wanigan_lab::scenario;
use wanigan_lab::servers::nginx::Nginx;
use wanigan_lab::servers::smbd::{Encryption, Signing, Smbd};
use wanigan_lab::topology::Lab;
use wanigan_lab::wan::Shape;

const LIMIT: Duration = Duration::from_secs(60);
const WAN: Shape = Shape::new(100, Duration::from_millis(20));

#[test]
fn reported_wan_bytes_are_the_links_own() {
    scenario!(["smbd", "smbpasswd", "smbclient", "nginx", "curl", "nft", "wanigan"], 2, WAN, figures_agree);
}

#[test]
fn reported_wan_bytes_are_the_links_own_under_loss() {
    let lossy = WAN.with_loss(0.005);
    scenario!(["smbd", "smbpasswd", "smbclient", "nginx", "curl", "nft", "wanigan"], 2, lossy, figures_agree);
}

fn figures_agree(lab: &Lab) -> Result<()> {
    let smbd = Smbd::start(lab, Signing::Required, Encryption::Off)?;
    let nginx = Nginx::start(lab)?;
    let pair = Pair::start(lab, Mode::Tproxy, Memory::PLENTY)?;
    content::write(&smbd.share().join("file"), 40, 6 << 20)?;
    content::write(&nginx.files().join("file"), 41, 6 << 20)?;
    let figures = || -> Result<(u64, u64)> {
        let counted = lab.wan().settled(Duration::from_millis(100)).entered_bytes();
        Ok((pair.reported_wan_bytes()?, counted))
    };
    let agree = |what: &str, before: (u64, u64)| -> Result<(u64, u64)> {
        let after = figures()?;
        let (reported, counted) = (after.0 - before.0, after.1 - before.1);
        let difference = reported.abs_diff(counted);
        ensure!(difference * 100 <= counted, "{what}: reported {reported}, counted {counted}");
        Ok(after)
    };
    let mut at = figures()?;
    for number in 0..2 {
        SmbClient::new(lab.client(number), lab.directory()).get("file", LIMIT)?;
        at = agree(&format!("SMB read {number}"), at)?;
    }
    for number in 0..2 {
        Curl::new(lab.client(number), lab.directory()).get("file", LIMIT)?;
        at = agree(&format!("HTTP read {number}"), at)?;
    }
    Ok(())
}
