//! Edges of one branch give each other what they hold: the WAN carries a file once.

use std::time::Duration;

use anyhow::{Result, ensure};
use wanigan_lab::clients::smbclient::SmbClient;
use wanigan_lab::content;
use wanigan_lab::names::Domain;
use wanigan_lab::namespace::Namespace;
use wanigan_lab::node::Setup;
use wanigan_lab::office::{Office, WebFile};
use wanigan_lab::scenario;
use wanigan_lab::servers::smbd::{Encryption, Signing, Smbd};
use wanigan_lab::topology::{Family, Hosts, Lab};
use wanigan_lab::wan::Shape;

const LIMIT: Duration = Duration::from_secs(60);
/// Eight nodes share the machine's cores in the lab: a line that they can keep up with.
const SLOWER_WAN: Shape = Shape::new(50, Duration::from_millis(20));
/// Long enough for the files to be looked at and for 256 blocks to be renamed.
const GRACE: Duration = Duration::from_secs(12);
const QUIET: Duration = Duration::from_millis(100);
const WAN: Shape = Shape::new(100, Duration::from_millis(20));
const LENGTH: usize = 16 << 20;

#[test]
fn a_second_edges_first_read_comes_from_the_first_over_ipv4() {
    scenario!(["nginx", "curl", "dumpcap", "nft", "wanigan"], 2, WAN, |lab| second_read(lab, Family::V4));
}

#[test]
fn a_second_edges_first_read_comes_from_the_first_over_ipv6() {
    scenario!(["nginx", "curl", "dumpcap", "nft", "wanigan"], 2, WAN, |lab| second_read(lab, Family::V6));
}

#[test]
fn a_second_edges_first_smb_read_comes_from_the_first_over_ipv4() {
    scenario!(["smbd", "smbpasswd", "smbclient", "nginx", "nft", "wanigan"], 2, WAN, |lab| second_smb_read(
        lab,
        Family::V4
    ));
}

#[test]
fn a_second_edges_first_smb_read_comes_from_the_first_over_ipv6() {
    scenario!(["smbd", "smbpasswd", "smbclient", "nginx", "nft", "wanigan"], 2, WAN, |lab| second_smb_read(
        lab,
        Family::V6
    ));
}

#[test]
fn eight_edges_opening_one_new_file_cost_the_wan_one_copy_over_ipv4() {
    scenario!(["nginx", "curl", "dumpcap", "nft", "wanigan"], 8, SLOWER_WAN, |lab| eight_at_once(
        lab,
        Family::V4
    ));
}

#[test]
fn eight_edges_opening_one_new_file_cost_the_wan_one_copy_over_ipv6() {
    scenario!(["nginx", "curl", "dumpcap", "nft", "wanigan"], 8, SLOWER_WAN, |lab| eight_at_once(
        lab,
        Family::V6
    ));
}

#[test]
fn an_edge_on_a_gateway_and_one_on_a_workstation_share() {
    let hosts = Hosts { clients: 1, gateways: 1, remote: 0 };
    scenario!(["nginx", "curl", "nft", "wanigan"], hosts, WAN, |lab| {
        let edges = vec![Setup::gateway(lab, 0), Setup::workstation(lab, 0)];
        let office = Office::open(lab, Family::V4, edges)?;
        let clients = [lab.behind(0), lab.client(0)];
        for (seed, [first, second], edge) in [(1, [0, 1], 1), (2, [1, 0], 0)] {
            let file = office.publish(seed, LENGTH)?;
            office.read_cold_at(clients[first], &file)?;
            office.read_from_at("peer", edge, clients[second], &file)?;
        }
        office.expect_nothing_went_direct()
    });
}

#[test]
fn edges_share_what_they_kept_over_a_restart() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 2, WAN, |lab| {
        let mut office = Office::open(lab, Family::V4, 2)?;
        let file = office.publish(1, LENGTH)?;
        office.read_cold(0, &file)?;
        office.branch.edges[0].stop(LIMIT)?;
        office.branch.edges[0] = office.branch.certificates.start(lab, &Setup::workstation(lab, 0))?;
        office.edge(0).wait_for_link()?;
        // What it has it tells the core piece by piece, and the core believes nothing else.
        std::thread::sleep(Duration::from_secs(3));
        office.read_from("peer", 1, &file)
    });
}

#[test]
fn a_requesting_only_edge_gives_nothing_and_gets() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 2, WAN, |lab| {
        let edges = vec![Setup::workstation(lab, 0).gives_nothing(), Setup::workstation(lab, 1)];
        let office = Office::open(lab, Family::V4, edges)?;
        let file = office.publish(1, LENGTH)?;
        office.read_cold(0, &file)?;
        office.read_cold(1, &file)?;
        for metric in ["wanigan_peer_served_bytes_total", "wanigan_discovery_answered_blocks_total"] {
            let given = office.edge(0).metric(metric, "")?;
            ensure!(given == 0, "an edge that gives nothing has {metric} {given}");
        }
        let file = office.publish(2, LENGTH)?;
        office.read_cold(1, &file)?;
        office.read_from("peer", 0, &file)
    });
}

#[test]
fn an_edge_without_peers_neither_asks_nor_gives() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 2, WAN, |lab| {
        let edges =
            vec![Setup::workstation(lab, 0), Setup::workstation(lab, 1).peers_line("enabled = false")];
        let office = Office::open(lab, Family::V4, edges)?;
        for (seed, [first, second]) in [(1, [0, 1]), (2, [1, 0])] {
            let file = office.publish(seed, LENGTH / 4)?;
            office.read_cold(first, &file)?;
            office.read_cold(second, &file)?;
        }
        let said = office.edge(1).metric("wanigan_discovery_sent_bytes_total", "")?;
        ensure!(said == 0, "{said} bytes of discovery from an edge without");
        Ok(())
    });
}

#[test]
fn peers_with_clocks_hours_apart_share() {
    scenario!(["nginx", "curl", "nft", "faketime", "wanigan"], 3, WAN, |lab| {
        let clocks = ["+3h", "-5h", "+0"];
        let edges =
            (0..3).map(|number| Setup::workstation(lab, number).clock(clocks[number])).collect::<Vec<_>>();
        let office = Office::open(lab, Family::V4, edges)?;
        clocks_differ(&office)?;
        let file = office.publish(1, LENGTH)?;
        office.read_cold(0, &file)?;
        for edge in [1, 2] {
            office.read_from("peer", edge, &file)?;
        }
        office.expect_nothing_went_direct()
    });
}

#[test]
fn after_a_rotation_a_second_edge_still_reads_from_its_peer() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 2, WAN, |lab| {
        let office = Office::open(lab, Family::V4, 2)?;
        let file = office.publish(1, LENGTH)?;
        office.read_cold(0, &file)?;
        let before = office.domain()?;
        office.branch.core.wanigan(&["rotate-secret"])?;
        ensure!(office.domain()?.key_id() != before.key_id(), "the secret is the old one");
        // The core looks at its file every few seconds.
        std::thread::sleep(Duration::from_secs(5));
        let capture = lab.capture_lan("rotated")?;
        office.read_from("peer", 1, &file)?;
        // Blocks are named anew, so their old digests' company must not show either.
        nothing_shows(&capture.stop()?, &[before, office.domain()?], &file)
    });
}

#[test]
fn when_the_grace_is_over_blocks_are_still_shared_by_the_names_that_their_holders_were_given() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 2, WAN, |lab| {
        let core = Setup::core(lab).core_line(&format!("secret-grace = \"{} s\"", GRACE.as_secs()));
        let office = Office::open_with(lab, Family::V4, core, 2)?;
        let file = office.publish(1, LENGTH)?;
        office.read_cold(0, &file)?;
        office.branch.core.wanigan(&["rotate-secret"])?;
        // Nobody reads meanwhile: the holder asks for the new names by itself.
        std::thread::sleep(GRACE + Duration::from_secs(4));
        ensure!(office.edge(0).log().contains("a server secret has expired"), "the grace is not over");
        office.read_from("peer", 1, &file)?;
        office.expect_nothing_went_direct()
    });
}

#[test]
fn the_core_refers_an_edge_to_another_subnet() {
    let hosts = Hosts { clients: 1, gateways: 0, remote: 1 };
    scenario!(["nginx", "curl", "nft", "wanigan"], hosts, WAN, |lab| {
        let edges = vec![Setup::workstation(lab, 0), Setup::remote(lab, 0)];
        let office = Office::open(lab, Family::V4, edges)?;
        for (seed, [first, second]) in [(1, [0, 1]), (2, [1, 0])] {
            let file = office.publish(seed, LENGTH)?;
            office.read_cold(first, &file)?;
            office.read_from("referral", second, &file)?;
        }
        office.expect_nothing_went_direct()
    });
}

#[test]
fn the_core_refers_an_edge_to_another_site_of_its_group_and_not_beyond_it() {
    let hosts = Hosts { clients: 1, gateways: 0, remote: 2 };
    scenario!(["nginx", "curl", "nft", "wanigan"], hosts, WAN, |lab| {
        let edges = vec![
            Setup::workstation(lab, 0).site("lisbon"),
            Setup::remote(lab, 0).site("porto"),
            Setup::remote(lab, 1).site("faro"),
        ];
        let core = Setup::core(lab).core_line("site-groups = [[\"lisbon\", \"porto\"]]");
        let office = Office::open_with(lab, Family::V6, core, edges)?;
        let file = office.publish(1, LENGTH)?;
        office.read_cold(0, &file)?;
        office.read_cold(2, &file)?;
        office.read_from("referral", 1, &file)?;
        let given = office.edge(2).metric("wanigan_peer_served_bytes_total", "")?;
        ensure!(given == 0, "an edge outside of the group gave {given} bytes");
        // What sites exchange crosses their lines, and the figures say so.
        let sent = office.edge(0).metric("wanigan_peer_off_site_sent_bytes_total", "")?;
        let received = office.edge(1).metric("wanigan_peer_off_site_received_bytes_total", "")?;
        ensure!(sent >= file.bytes() && sent * 100 <= file.bytes() * 103, "{sent} bytes to another site");
        ensure!(received >= file.bytes() && received <= sent, "{received} bytes from another site");
        office.expect_nothing_went_direct()
    });
}

#[test]
fn in_plain_mode_too_a_second_edge_reads_from_the_first_and_no_digest_shows() {
    scenario!(["nginx", "curl", "dumpcap", "nft", "wanigan"], 2, WAN, |lab| {
        let core = Setup::core(lab).core_line("proofs = \"plain\"");
        let capture = lab.capture_lan("plain")?;
        let office = Office::open_with(lab, Family::V4, core, 2)?;
        let file = office.publish(1, LENGTH)?;
        office.read_cold(0, &file)?;
        office.read_from("peer", 1, &file)?;
        let captured = capture.stop()?;
        nothing_shows(&captured, &[Domain::Plain], &file)?;
        tags_show(&captured, &Domain::Plain, &file)
    });
}

fn second_read(lab: &Lab, family: Family) -> Result<()> {
    let capture = lab.capture_lan("two")?;
    let office = Office::open(lab, family, 2)?;
    let file = office.publish(1, LENGTH)?;
    office.read_cold(0, &file)?;
    office.read_from("peer", 1, &file)?;
    office.expect_nothing_went_direct()?;
    let captured = capture.stop()?;
    // The file came to the LAN once and went from one edge to the other, or the search says nothing.
    let seen = captured.bytes()?;
    ensure!(seen >= 2 * file.bytes(), "the capture has {seen} bytes");
    nothing_shows(&captured, &[office.domain()?], &file)?;
    tags_show(&captured, &office.domain()?, &file)
}

fn second_smb_read(lab: &Lab, family: Family) -> Result<()> {
    let smbd = Smbd::start(lab, Signing::Required, Encryption::Off)?;
    let office = Office::open(lab, family, 2)?;
    let digest = content::write(&smbd.share().join("file"), 3, LENGTH)?;
    let read = |number| {
        lab.wan().crossed(QUIET, || {
            let client = SmbClient::new(lab.client(number), lab.directory()).family(family);
            client.get("file", LIMIT)?.expect(digest)
        })
    };
    let (cold, shared) = (read(0)?, read(1)?);
    ensure!(cold >= LENGTH as u64, "a cold read crossed with {cold} bytes: it was not cold");
    ensure!(shared * 100 <= LENGTH as u64, "the second edge's read crossed with {shared} bytes");
    let given = office.bytes_from(1, "peer")?;
    ensure!(given * 100 >= LENGTH as u64 * 95, "{given} bytes came from peers");
    office.expect_nothing_went_direct()
}

fn eight_at_once(lab: &Lab, family: Family) -> Result<()> {
    let capture = lab.capture_lan("eight")?;
    let office = Office::open(lab, family, 8)?;
    let file = office.publish(1, 64 << 20)?;
    let hosts: Vec<&Namespace> = (0..8).map(|number| lab.client(number)).collect();
    let crossed = office.read_at_once(&hosts, &file)?;
    let copies = crossed as f64 / file.bytes() as f64;
    eprintln!("eight edges over {family:?}: {copies:.3} copies over the WAN");
    ensure!((1.0..=1.3).contains(&copies), "{copies:.3} copies crossed the WAN\n{}", office.figures());
    office.expect_nothing_went_direct()?;
    let captured = capture.stop()?;
    let seen = captured.bytes()?;
    ensure!(seen >= 7 * file.bytes(), "the capture has {seen} bytes");
    nothing_shows(&captured, &[office.domain()?], &file)
}

/// Neither names nor content of a file are in a capture, whichever of these domains named them.
fn nothing_shows(
    captured: &wanigan_lab::capture::Captured,
    domains: &[Domain],
    file: &WebFile,
) -> Result<()> {
    for domain in domains {
        let found = captured.search(&domain.secrets(&file.content))?;
        ensure!(found.is_empty(), "{} secrets on the LAN, the first {:?}", found.len(), found.first());
    }
    Ok(())
}

/// The tags by which edges ask are there: so what is computed here is what the nodes compute.
fn tags_show(captured: &wanigan_lab::capture::Captured, domain: &Domain, file: &WebFile) -> Result<()> {
    let found = captured.search(&domain.tags(&file.content))?.len();
    ensure!(found > 0, "not one tag was asked for on the LAN");
    Ok(())
}

/// The nodes' own logs say what time they think it is; the hour is enough to tell.
fn clocks_differ(office: &Office<'_>) -> Result<()> {
    let hours: Vec<String> = office
        .branch
        .edges
        .iter()
        .map(|edge| {
            edge.log().split_once('T').map_or(String::new(), |(_, time)| time.chars().take(2).collect())
        })
        .collect();
    ensure!(hours[0] != hours[1] && hours[1] != hours[2] && hours[0] != hours[2], "the hours are {hours:?}");
    Ok(())
}
