//! Edges that are not what the core or their neighbours take them for: nobody gets what is not his, and reads go on.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use wanigan_lab::namespace::Namespace;
use wanigan_lab::node::Setup;
use wanigan_lab::office::Office;
use wanigan_lab::scenario;
use wanigan_lab::topology::Family;
use wanigan_lab::wan::Shape;

const WAN: Shape = Shape::new(100, Duration::from_millis(20));
const LENGTH: usize = 16 << 20;

/// The core names a neighbour to whoever reads what is on its way there, also to an edge that speaks to no peer.
#[test]
fn an_edge_without_peers_that_is_referred_to_a_neighbour_reads_on() {
    scenario!(["nginx", "curl", "nft", "wanigan"], 2, WAN, |lab| {
        let edges =
            vec![Setup::workstation(lab, 0), Setup::workstation(lab, 1).peers_line("enabled = false")];
        let office = Office::open(lab, Family::V4, edges)?;
        let hosts: Vec<&Namespace> = (0..2).map(|number| lab.client(number)).collect();
        for seed in 1..=3 {
            let file = office.publish(seed, LENGTH)?;
            let began = Instant::now();
            let crossed = office.read_at_once(&hosts, &file)?;
            let (took, copies) = (began.elapsed(), crossed as f64 / file.bytes() as f64);
            eprintln!("{copies:.2} copies in {took:?}");
            // Two copies take three seconds on this line.
            ensure!(took < Duration::from_secs(8), "the reads took {took:?}\n{}", office.figures());
            ensure!(copies < 2.2, "{copies:.2} copies crossed the WAN\n{}", office.figures());
        }
        expect_no_words_with_peers(&office)
    });
}

fn expect_no_words_with_peers(office: &Office<'_>) -> Result<()> {
    let given = office.edge(0).metric("wanigan_peer_served_bytes_total", "")?;
    ensure!(given == 0, "{given} bytes went to an edge without peers");
    office.expect_nothing_went_direct()
}
