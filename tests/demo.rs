//! The whole demo on a small file and a quick WAN: real nodes, real links, real clients, and the shares that the
//! demo is there to show.
#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::time::Duration;

use wanigan::demo::samba::SambaError;
use wanigan::demo::wan::WanShape;
use wanigan::demo::{self, Report, Row, Settings, Step};

const FILE_BYTES: usize = 8 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_second_read_crosses_the_wan_as_references_over_every_protocol() {
    let (report, told) = run_demo().await;
    match &report.without_smb {
        None => assert_eq!(report.rows.len(), 2 * Step::ALL.len()),
        Some(SambaError::Missing(_)) => {
            println!("skipped: the rows of SMB: Samba is not installed");
            assert_eq!(report.rows.len(), Step::ALL.len());
            assert!(told.contains("SMB is left out: failed to find"), "{told}");
        }
        Some(other) => panic!("Samba is installed, but: {other}"),
    }
    for row in &report.rows {
        let share = share(row);
        let expected = match row.step {
            // Packet headers come on top; over SMB also what precedes a read.
            Step::Direct | Step::Cold => 1.0..1.15,
            // Requests and headers, and some bytes for all blocks together.
            Step::Warm | Step::OtherEdge => 0.0001..0.02,
            // What was changed, and two slices of its block.
            Step::Changed => 0.0001..0.03,
        };
        assert!(expected.contains(&share), "{}, {}: {share}\n{told}", row.protocol, row.step);
        assert_eq!(row.fetched.bytes, FILE_BYTES as u64);
    }
    assert!(told.contains(&report.table().to_string()), "{told}");
}

async fn run_demo() -> (Report, String) {
    let wan = WanShape {
        bits_per_second: 100_000_000,
        // Peers are waited for as long as half a round trip: long enough for a machine that is busy.
        one_way_delay: Duration::from_millis(25),
        queue_bytes: 1 << 20,
    };
    let mut told = Vec::new();
    let report = demo::run(Settings { file_bytes: FILE_BYTES, wan }, &mut told).await.unwrap();
    (report, String::from_utf8(told).unwrap())
}

fn share(row: &Row) -> f64 {
    row.wan.total() as f64 / row.fetched.bytes as f64
}
