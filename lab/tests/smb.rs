//! SMB through an edge and a core: unmodified `smbclient` and `smbd`, right to the last byte, once over the WAN.

use std::time::Duration;

use anyhow::{Result, ensure};
use wanigan_lab::clients::smbclient::{Dialect, Protection, SmbClient};
use wanigan_lab::content::{self, Digest};
use wanigan_lab::node::{Memory, Mode, Pair};
use wanigan_lab::scenario;
use wanigan_lab::servers::smbd::{Encryption, Signing, Smbd};
use wanigan_lab::topology::{Family, Lab};
use wanigan_lab::wan::Shape;

const LIMIT: Duration = Duration::from_secs(60);
const QUIET: Duration = Duration::from_millis(100);
const WAN: Shape = Shape::new(200, Duration::from_millis(10));

#[test]
fn reads_are_right_in_every_dialect_where_signing_is_required() {
    scenario!(["smbd", "smbpasswd", "smbclient", "nft", "wanigan"], 2, WAN, |lab| {
        let smbd = Smbd::start(lab, Signing::Required, Encryption::Off)?;
        reads_are_right_in_every_dialect(lab, &smbd)
    });
}

#[test]
fn reads_are_right_in_every_dialect_where_signing_is_off() {
    scenario!(["smbd", "smbpasswd", "smbclient", "nft", "wanigan"], 2, WAN, |lab| {
        let smbd = Smbd::start(lab, Signing::Off, Encryption::Off)?;
        reads_are_right_in_every_dialect(lab, &smbd)
    });
}

#[test]
fn encrypted_reads_are_right_and_counted_as_opaque() {
    scenario!(["smbd", "smbpasswd", "smbclient", "nft", "wanigan"], 2, WAN, |lab| {
        let smbd = Smbd::start(lab, Signing::Off, Encryption::Required)?;
        let pair = Pair::start(lab, Mode::Tproxy, Memory::PLENTY)?;
        let length = 4 << 20;
        let digest = content::write(&smbd.share().join("file"), 10, length)?;
        for dialect in [Dialect::Smb300, Dialect::Smb311] {
            client(lab, 0)
                .dialect(dialect)
                .protection(Protection::Encrypt)
                .get("file", LIMIT)?
                .expect(digest)?;
        }
        let label = "reason=\"smb_encrypted\"";
        let opaque = pair.core.metric("wanigan_opaque_bytes_total", label)?
            + pair.edge.metric("wanigan_opaque_bytes_total", label)?;
        ensure!(opaque >= 2 * length as u64, "{opaque} bytes counted as encrypted");
        nothing_went_direct(&pair)
    });
}

#[test]
fn a_second_clients_read_crosses_the_wan_at_one_percent() {
    scenario!(["smbd", "smbpasswd", "smbclient", "nft", "wanigan"], 2, WAN, |lab| {
        let smbd = Smbd::start(lab, Signing::Required, Encryption::Off)?;
        let _pair = Pair::start(lab, Mode::Tproxy, Memory::PLENTY)?;
        let length = 16 << 20;
        let digest = content::write(&smbd.share().join("file"), 11, length)?;
        let idle = lab.wan().settled(QUIET).entered_bytes();
        client(lab, 0).get("file", LIMIT)?.expect(digest)?;
        let cold = lab.wan().settled(QUIET).entered_bytes();
        client(lab, 1).get("file", LIMIT)?.expect(digest)?;
        let warm = lab.wan().settled(QUIET).entered_bytes();
        let (cold, warm) = (cold - idle, warm - cold);
        ensure!(cold >= length as u64, "a cold read crossed with {cold} bytes: it was not cold");
        ensure!(warm * 100 <= length as u64, "a warm read crossed with {warm} bytes");
        Ok(())
    });
}

#[test]
fn a_dialect_with_other_read_sizes_reads_right_what_another_brought() {
    scenario!(["smbd", "smbpasswd", "smbclient", "nft", "wanigan"], 2, WAN, |lab| {
        let smbd = Smbd::start(lab, Signing::Off, Encryption::Off)?;
        let pair = Pair::start(lab, Mode::Tproxy, Memory::PLENTY)?;
        // Not a multiple of any read or block.
        let digest = content::write(&smbd.share().join("file"), 12, (5 << 20) + 12_345)?;
        for dialect in Dialect::ALL {
            client(lab, 0).dialect(dialect).get("file", LIMIT)?.expect(digest)?;
        }
        from_store(&pair, 5 << 20)
    });
}

#[test]
fn a_file_changed_in_place_is_never_read_stale() {
    scenario!(["smbd", "smbpasswd", "smbclient", "nft", "wanigan"], 2, WAN, |lab| {
        let smbd = Smbd::start(lab, Signing::Required, Encryption::Off)?;
        let _pair = Pair::start(lab, Mode::Tproxy, Memory::PLENTY)?;
        let path = smbd.share().join("file");
        let mut bytes = content::bytes(13, 4 << 20);
        for round in 0..3 {
            bytes[round * 1_000_000 + 17] ^= 0x55;
            std::fs::write(&path, &bytes)?;
            for number in 0..2 {
                client(lab, number).get("file", LIMIT)?.expect(Digest::of(&bytes))?;
            }
        }
        Ok(())
    });
}

#[test]
fn what_a_client_writes_arrives_as_it_was() {
    scenario!(["smbd", "smbpasswd", "smbclient", "nft", "wanigan"], 2, WAN, |lab| {
        let smbd = Smbd::start(lab, Signing::Required, Encryption::Off)?;
        let pair = Pair::start(lab, Mode::Tproxy, Memory::PLENTY)?;
        let local = lab.path("local");
        let digest = content::write(&local, 14, 4 << 20)?;
        for name in ["first", "second"] {
            client(lab, 0).put(&local, name, LIMIT)?;
            ensure!(Digest::of_file(&smbd.share().join(name))? == digest, "{name} differs");
        }
        client(lab, 1).get("second", LIMIT)?.expect(digest)?;
        nothing_went_direct(&pair)
    });
}

#[test]
fn a_second_write_of_the_same_content_crosses_the_wan_at_two_percent_and_so_does_reading_it_back() {
    scenario!(["smbd", "smbpasswd", "smbclient", "nft", "wanigan"], 2, WAN, |lab| {
        let smbd = Smbd::start(lab, Signing::Required, Encryption::Off)?;
        let pair = Pair::start(lab, Mode::Tproxy, Memory::PLENTY)?;
        let (local, length) = (lab.path("local"), 16 << 20);
        let digest = content::write(&local, 18, length)?;
        let mut crossed = vec![lab.wan().settled(QUIET).entered_bytes()];
        for (number, name) in ["first", "second"].into_iter().enumerate() {
            client(lab, number).put(&local, name, LIMIT)?;
            ensure!(Digest::of_file(&smbd.share().join(name))? == digest, "{name} differs");
            crossed.push(lab.wan().settled(QUIET).entered_bytes());
        }
        client(lab, 1).get("first", LIMIT)?.expect(digest)?;
        crossed.push(lab.wan().settled(QUIET).entered_bytes());
        let [cold, warm, back] = [0, 1, 2].map(|at| crossed[at + 1] - crossed[at]);
        println!("{length} bytes: {cold} written, {warm} written again, {back} read back");
        ensure!(cold >= length as u64, "the first write crossed with {cold} bytes: it was not cold");
        ensure!(warm * 50 <= length as u64, "the second write crossed with {warm} bytes");
        ensure!(back * 50 <= length as u64, "reading it back crossed with {back} bytes");
        nothing_went_direct(&pair)
    });
}

#[test]
fn every_way_of_interception_carries_both_families() {
    for mode in Mode::TRANSPARENT {
        scenario!(["smbd", "smbpasswd", "smbclient", "nft", "wanigan"], 2, WAN, |lab| {
            let smbd = Smbd::start(lab, Signing::Off, Encryption::Off)?;
            let pair = Pair::start(lab, mode, Memory::PLENTY)?;
            let digest = content::write(&smbd.share().join("file"), 15, 3 << 20)?;
            for (number, family) in Family::ALL.into_iter().enumerate() {
                client(lab, number).family(family).get("file", LIMIT)?.expect(digest)?;
            }
            nothing_went_direct(&pair)?;
            from_store(&pair, 2 << 20)
        });
    }
}

#[test]
fn a_client_that_is_pointed_at_the_edge_reads_through_it() {
    scenario!(["smbd", "smbpasswd", "smbclient", "wanigan"], 2, WAN, |lab| {
        let smbd = Smbd::start(lab, Signing::Off, Encryption::Off)?;
        let pair = Pair::start(lab, Mode::Listen { port: 445 }, Memory::PLENTY)?;
        let digest = content::write(&smbd.share().join("file"), 16, 3 << 20)?;
        let address = Mode::listen_address(445);
        for number in 0..2 {
            let client = client(lab, number).at(&address.ip().to_string(), address.port());
            client.get("file", LIMIT)?.expect(digest)?;
        }
        nothing_went_direct(&pair)?;
        from_store(&pair, 2 << 20)
    });
}

#[test]
fn reads_are_right_over_a_link_that_loses_packets() {
    scenario!(["smbd", "smbpasswd", "smbclient", "nft", "wanigan"], 2, WAN.with_loss(0.01), |lab| {
        let smbd = Smbd::start(lab, Signing::Required, Encryption::Off)?;
        let pair = Pair::start(lab, Mode::Tproxy, Memory::PLENTY)?;
        let digest = content::write(&smbd.share().join("file"), 17, 4 << 20)?;
        for number in 0..2 {
            client(lab, number).get("file", LIMIT)?.expect(digest)?;
        }
        nothing_went_direct(&pair)
    });
}

fn reads_are_right_in_every_dialect(lab: &Lab, smbd: &Smbd) -> Result<()> {
    let pair = Pair::start(lab, Mode::Tproxy, Memory::PLENTY)?;
    let length = 3 << 20;
    for (number, dialect) in Dialect::ALL.into_iter().enumerate() {
        let name = format!("file{number}");
        let digest = content::write(&smbd.share().join(&name), number as u64, length)?;
        for reader in 0..2 {
            client(lab, reader).dialect(dialect).get(&name, LIMIT)?.expect(digest)?;
        }
    }
    nothing_went_direct(&pair)?;
    from_store(&pair, (length * Dialect::ALL.len()) as u64 * 9 / 10)
}

fn client(lab: &Lab, number: usize) -> SmbClient<'_> {
    SmbClient::new(lab.client(number), lab.directory())
}

/// A right digest says little if the edge let the connection pass.
fn nothing_went_direct(pair: &Pair<'_>) -> Result<()> {
    let direct = pair.edge.metric("wanigan_flows_direct_total", "")?;
    let carried = pair.edge.metric("wanigan_lan_bytes_total", "")?;
    ensure!(direct == 0 && carried > 0, "{direct} connections went direct, {carried} bytes were carried");
    Ok(())
}

fn from_store(pair: &Pair<'_>, bytes: u64) -> Result<()> {
    let served = pair.edge.metric("wanigan_block_bytes_total", "source=\"store\"")?;
    ensure!(served >= bytes, "{served} bytes came from the store, not {bytes}");
    Ok(())
}
