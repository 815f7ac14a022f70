//! Somebody on the LAN who wants what is not theirs: sends any datagram from any host, and forges asks and answers.
//!
//! A [`Forger`] computes proofs from the documents alone, with the core's secret in hand. So it can say what an
//! entitled edge would, which must be answered, and then each thing that is wrong in one place only, which must not.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use wanigan_parsers::discovery::{Ask, AskedBlock, HadBlock, Have};
use wanigan_parsers::wan::KeyId;
use wanigan_parsers::{NodeId, Tag};

use crate::content;
use crate::names::{Domain, Names, hmac};
use crate::namespace::Namespace;

/// A UDP socket of the attacker's.
#[derive(Debug)]
pub struct Attacker {
    socket: UdpSocket,
}

impl Attacker {
    /// Opens a socket inside of a namespace, on any port.
    ///
    /// # Errors
    /// If the address is not one of its own.
    pub fn new(namespace: &Namespace, address: SocketAddr) -> Result<Self> {
        let socket =
            namespace.enter(|| UdpSocket::bind(address).with_context(|| format!("bind {address}")))?;
        socket.set_broadcast(true).context("be allowed to broadcast")?;
        Ok(Self { socket })
    }

    /// Sends a datagram.
    ///
    /// # Errors
    /// If there is no way to the destination.
    pub fn say(&self, payload: &[u8], destination: SocketAddr) -> Result<()> {
        self.socket.send_to(payload, destination).with_context(|| format!("send to {destination}"))?;
        Ok(())
    }

    /// Returns what comes in within a time, with its source.
    ///
    /// # Errors
    /// If the socket fails.
    pub fn hear(&self, within: Duration) -> Result<Vec<(SocketAddr, Vec<u8>)>> {
        let (deadline, mut heard, mut buffer) = (Instant::now() + within, Vec::new(), vec![0; 65_536]);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(heard);
            }
            self.socket.set_read_timeout(Some(left)).context("limit the time to listen")?;
            match self.socket.recv_from(&mut buffer) {
                Ok((length, source)) => heard.push((source, buffer[..length].to_vec())),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("listen"),
            }
        }
    }
}

/// Makes asks and answers.
#[derive(Clone)]
pub struct Forger {
    domain: Domain,
    /// Who it says it is.
    pub node: NodeId,
    random: u64,
}

impl Forger {
    /// Returns one that knows a domain's secret. Its random numbers are others in each process.
    #[must_use]
    pub fn new(domain: Domain) -> Self {
        let mut random = domain_time() ^ u64::from(std::process::id()) << 40;
        let node = NodeId(hmac(&content::splitmix(&mut random).to_be_bytes(), &[b"a forger's identity"]));
        Self { domain, node, random }
    }

    /// Returns an ask that an entitled edge could send at a time of the domain.
    pub fn ask(&mut self, blocks: &[Names], time_ms: u64) -> Ask {
        let (requester, nonce) = (self.node, self.nonce());
        let prove = |names: &Names| {
            let time = time_ms.to_be_bytes();
            let proof = hmac(&names.hash, &[b"wanigan ask v1", &names.tag, &nonce, &time, &requester.0]);
            AskedBlock { tag: Tag(names.tag), proof }
        };
        Ask {
            key: KeyId(self.domain.key_id()),
            requester,
            time_ms,
            nonce,
            blocks: blocks.iter().map(prove).collect(),
        }
    }

    /// Returns an answer that an entitled edge could give to an ask for these blocks, in the ask's order.
    pub fn have(&mut self, ask: &Ask, blocks: &[Names], port: u16) -> Have {
        let nonce = self.nonce();
        let prove = |(index, names): (u8, &Names)| HadBlock {
            index,
            soon: false,
            proof: have_proof(ask, names, &nonce, self.node, false),
        };
        let blocks = (0..).zip(blocks).map(prove).collect();
        Have { responder: self.node, nonce, ask_nonce: ask.nonce, port, load: 0, blocks }
    }

    /// Returns bytes that nobody can foresee but who knows the forger.
    pub fn noise<const N: usize>(&mut self) -> [u8; N] {
        let mut noise = [0; N];
        for piece in noise.chunks_mut(8) {
            piece.copy_from_slice(&content::splitmix(&mut self.random).to_be_bytes()[..piece.len()]);
        }
        noise
    }

    fn nonce(&mut self) -> [u8; 16] {
        self.noise()
    }
}

/// Tells whether an answer proves all that it says of an ask for these blocks.
#[must_use]
pub fn proves(have: &Have, ask: &Ask, blocks: &[Names]) -> bool {
    have.ask_nonce == ask.nonce
        && have.blocks.iter().all(|had| {
            blocks.get(usize::from(had.index)).is_some_and(|names| {
                had.proof == have_proof(ask, names, &have.nonce, have.responder, had.soon)
            })
        })
}

fn have_proof(ask: &Ask, names: &Names, nonce: &[u8; 16], responder: NodeId, soon: bool) -> [u8; 32] {
    let time = ask.time_ms.to_be_bytes();
    let parts: [&[u8]; 8] = [
        b"wanigan have v1",
        &names.tag,
        &ask.nonce,
        nonce,
        &ask.requester.0,
        &responder.0,
        &time,
        &[u8::from(soon)],
    ];
    hmac(&names.hash, &parts)
}

/// Returns the time of the lab's domain, in milliseconds since 1970: its core has this machine's clock.
#[must_use]
pub fn domain_time() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "this is a shell: an attacker looks at the clock")]
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).expect("milliseconds since 1970 fit")
}
