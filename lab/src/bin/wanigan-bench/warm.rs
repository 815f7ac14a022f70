//! A file that the branch has: how little crosses, and how long it takes beside what no proxy can take away.
//!
//! *Link bytes in all* are all that entered the link during the read, keeping it alive and acknowledgements among them, as
//! percent of the payload.
//!
//! *Without requests and headers* is the same less what the protocol itself says besides the payload: all bytes of the
//! client's TCP connections, both ways (requests, response headers, log-in; `wanigan_lan_bytes_total` at the edge, so without
//! TCP's and IP's own headers), less the payload. Those have to cross in any case. What remains is what Wanigan adds:
//! references, frames, QUIC and its packets' headers. It can be below zero where headers cross compressed.
//!
//! The time is held against the sum of two that it cannot well be below: log-in and open of a tiny file on the same way,
//! which is all round trips, and the same read directly with neither rate nor delay on the link, which is the work of client
//! and server.

use std::time::Duration;

use anyhow::Result;
use wanigan_lab::servers::smbd::Encryption;
use wanigan_lab::topology::Lab;
use wanigan_lab::wan::Shape;

use super::WAN;
use super::measure::{Cost, in_a_lab, median, middle};
use super::report::Report;
use super::scene::{Path, Protocol, Scene};

/// What was measured of one protocol.
struct Warm {
    warm: Cost,
    /// Link bytes of a warm read less requests and headers.
    own_bytes: f64,
    tiny: Cost,
    unshaped: Cost,
}

/// Measures the scenario.
pub(crate) fn measure(bytes: usize) -> Result<Report> {
    let about = format!(
        "Warm reads of {} MiB. The bound of the time is that of a tiny file on the same way plus that of the same read with \
         neither rate nor delay on the link.",
        bytes >> 20
    );
    let heads = &[
        "client",
        "link bytes in all",
        "without requests and headers",
        "time",
        "tiny file",
        "unshaped",
        "time to bound",
    ];
    let mut report = Report::new(about, heads);
    for protocol in Protocol::BOTH {
        let found = in_a_lab(1, |lab| one(lab, protocol, bytes))?;
        let (all, own) = (found.warm.percent(bytes), found.own_bytes / bytes as f64 * 100.0);
        let ratio = found.warm.seconds / (found.tiny.seconds + found.unshaped.seconds);
        let seconds = [found.warm, found.tiny, found.unshaped].map(|cost| format!("{:.2} s", cost.seconds));
        report.row(
            [protocol.client().to_owned(), format!("{all:.3} %"), format!("{own:.3} %")]
                .into_iter()
                .chain(seconds)
                .chain([format!("{ratio:.3}")]),
        );
        let name = format!("warm by {}", protocol.client());
        report.at_most(0.3, all, &format!("{name}, link bytes in percent of the payload"));
        report.at_most(0.1, own, &format!("{name}, the same without requests and headers"));
        report.at_most(1.15, ratio, &format!("{name}, time to its bound"));
    }
    Ok(report)
}

fn one(lab: &Lab, protocol: Protocol, bytes: usize) -> Result<Warm> {
    let scene = Scene::start(lab, Encryption::Off)?;
    let digest = scene.publish_seeded(protocol, "file", 400, bytes)?;
    let small = scene.publish_seeded(protocol, "tiny", 401, TINY)?;
    scene.read_cold(protocol, "file", digest, bytes)?;
    let mut own_bytes = Vec::new();
    let warm = median(|| {
        let before = lan_bytes(&scene)?;
        let cost = scene.read(protocol, Path::Wanigan, "file", digest)?;
        let besides = lan_bytes(&scene)? - before - bytes as f64;
        own_bytes.push(cost.wan_bytes as f64 - besides);
        Ok(cost)
    })?;
    let tiny = median(|| scene.read(protocol, Path::Wanigan, "tiny", small))?;
    lab.wan().set_shape(UNSHAPED);
    let unshaped = median(|| scene.read(protocol, Path::Direct, "file", digest))?;
    lab.wan().set_shape(WAN);
    scene.expect_nothing_went_direct()?;
    Ok(Warm { warm, own_bytes: middle(own_bytes)?, tiny, unshaped })
}

/// Returns the bytes that clients sent and got on their connections to the edge.
fn lan_bytes(scene: &Scene<'_>) -> Result<f64> {
    Ok(scene.pair.edge.metric("wanigan_lan_bytes_total", "")? as f64)
}

/// Neither rate nor delay, and room for any window.
const UNSHAPED: Shape = Shape { queue: Some(64 << 20), ..Shape::unshaped(Duration::ZERO) };
const TINY: usize = 4 << 10;
