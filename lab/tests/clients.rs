//! Eight ways to read over SMB, and one over HTTP, through an edge and a core: each gets the server's bytes, and it can be said
//! how much of them the branch had already.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use wanigan_lab::clients::curl::Curl;
use wanigan_lab::clients::programs::Program;
use wanigan_lab::content::{self, Digest};
use wanigan_lab::node::{Memory, Mode, Node, Pair};
use wanigan_lab::scenario;
use wanigan_lab::servers::nginx::Nginx;
use wanigan_lab::servers::smbd::{Encryption, Signing, Smbd};
use wanigan_lab::topology::Lab;
use wanigan_lab::wan::Shape;

const LIMIT: Duration = Duration::from_secs(60);
const WAN: Shape = Shape::new(200, Duration::from_millis(10));
/// What a client finds in the branch at least, in percent of its payload, when another has brought the file.
const HIT_SHARE_MIN: f64 = 95.0;
/// Not a multiple of any read or block.
const LENGTH: usize = (3 << 20) + 12_345;

#[test]
fn every_client_reads_right_what_the_others_brought() {
    scenario!(
        [
            "smbd",
            "smbpasswd",
            "smbclient",
            "smbget",
            "rclone",
            "lab-python",
            "nginx",
            "curl",
            "nft",
            "wanigan"
        ],
        2,
        WAN,
        |lab| {
            let smbd = Smbd::start(lab, Signing::Required, Encryption::Off)?;
            let nginx = Nginx::start(lab)?;
            let pair = Pair::start(lab, Mode::Tproxy, Memory::PLENTY)?;
            let digest = content::write(&smbd.share().join("file"), 60, LENGTH)?;
            content::write(&nginx.files().join("file"), 60, LENGTH)?;
            for (turn, program) in Program::ALL.into_iter().enumerate() {
                let share = hit_share(&pair.edge, || read(lab, program, digest))?;
                expect_share(program.name(), if turn == 0 { 0.0 } else { HIT_SHARE_MIN }, share)?;
            }
            let curl = Curl::new(lab.client(0), lab.directory());
            let share = hit_share(&pair.edge, || curl.get("file", LIMIT)?.expect(digest))?;
            expect_share("curl", HIT_SHARE_MIN, share)?;
            nothing_went_direct(&pair)
        }
    );
}

#[test]
fn every_client_reads_right_where_the_server_would_encrypt() {
    scenario!(
        ["smbd", "smbpasswd", "smbclient", "smbget", "rclone", "lab-python", "nft", "wanigan"],
        2,
        WAN,
        |lab| {
            let smbd = Smbd::start(lab, Signing::Required, Encryption::Offered)?;
            let pair = Pair::start(lab, Mode::Tproxy, Memory::PLENTY)?;
            let digest = content::write(&smbd.share().join("file"), 61, LENGTH)?;
            for program in Program::ALL {
                read(lab, program, digest)?;
            }
            // Not all of them take the offer, and some do.
            let encrypted = pair.core.metric("wanigan_opaque_bytes_total", "reason=\"smb_encrypted\"")?;
            ensure!(encrypted >= LENGTH as u64, "{encrypted} bytes were encrypted");
            nothing_went_direct(&pair)
        }
    );
}

fn read(lab: &Lab, program: Program, digest: Digest) -> Result<()> {
    let received = program.get(lab.client(1), lab.directory(), "file", LIMIT)?;
    received.expect(digest).with_context(|| program.name())
}

/// Returns how many percent of a read of [`LENGTH`] bytes the branch had: written from the edge's own store or a peer.
///
/// More than all where a client reads twice: rclone takes smbd's interim responses, which are not signed, for an attack,
/// and begins anew where it stood.
fn hit_share(edge: &Node<'_>, read: impl FnOnce() -> Result<()>) -> Result<f64> {
    let before = edge.hit_bytes()?;
    read()?;
    Ok((edge.hit_bytes()? - before) as f64 / LENGTH as f64 * 100.0)
}

fn expect_share(who: &str, least: f64, share: f64) -> Result<()> {
    eprintln!("{who}: {share:.1} % of the payload came from the branch");
    ensure!(share >= least, "{who}: {share} % of the payload came from the branch");
    Ok(())
}

/// A right digest says little if the edge let the connection pass.
fn nothing_went_direct(pair: &Pair<'_>) -> Result<()> {
    let direct = pair.edge.metric("wanigan_flows_direct_total", "")?;
    let carried = pair.edge.metric("wanigan_lan_bytes_total", "")?;
    ensure!(direct == 0 && carried > 0, "{direct} connections went direct, {carried} bytes were carried");
    Ok(())
}
