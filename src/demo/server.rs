//! A content server of the demo with its one file, and its protocol's client.

use std::io::{self, Seek, SeekFrom, Write};
use std::net::SocketAddr;

use sha2::{Digest, Sha256};

use super::content_server::ContentServer;
use super::http_client::{self, FetchError};
use super::samba::{Samba, SambaError};
use super::wan::{TcpWan, WanShape};
use super::{CHANGED_BYTES, Fetched};

/// Why a client has no file.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Over HTTP.
    #[error(transparent)]
    Http(#[from] FetchError),
    /// Over SMB.
    #[error(transparent)]
    Smb(#[from] SambaError),
    /// The file could not be put on the server.
    #[error("put the file on the server")]
    Put(#[source] io::Error),
    /// The WAN for the direct way.
    #[error("open the WAN")]
    Wan(#[source] io::Error),
}

/// A server with its file, and the direct way to it over a WAN.
#[derive(Debug)]
pub struct Server {
    kind: Kind,
    content: Vec<u8>,
    direct: TcpWan,
}

#[derive(Debug)]
enum Kind {
    Http(ContentServer),
    Smb(Samba),
}

impl Server {
    /// Puts a file on a web server.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn http(server: ContentServer, content: Vec<u8>, shape: WanShape) -> Result<Self, ServerError> {
        let direct = TcpWan::bind(server.address(), shape).map_err(ServerError::Wan)?;
        server.put(HTTP_PATH, content.clone());
        Ok(Self { kind: Kind::Http(server), content, direct })
    }

    /// Puts a file on a file server.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn smb(server: Samba, content: Vec<u8>, shape: WanShape) -> Result<Self, ServerError> {
        let direct = TcpWan::bind(server.address(), shape).map_err(ServerError::Wan)?;
        std::fs::write(server.share().join(SMB_NAME), &content).map_err(ServerError::Put)?;
        Ok(Self { kind: Kind::Smb(server), content, direct })
    }

    /// Returns the protocol's name.
    #[must_use]
    pub fn protocol(&self) -> &'static str {
        match self.kind {
            Kind::Http(_) => "HTTP",
            Kind::Smb(_) => "SMB",
        }
    }

    /// Returns where the server listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        match &self.kind {
            Kind::Http(server) => server.address(),
            Kind::Smb(server) => server.address(),
        }
    }

    /// Returns the direct way to the server.
    #[must_use]
    pub fn direct(&self) -> &TcpWan {
        &self.direct
    }

    /// Fetches the file with a new client.
    ///
    /// # Errors
    /// [`ServerError`].
    pub async fn fetch(&self, through: SocketAddr) -> Result<Fetched, ServerError> {
        Ok(match &self.kind {
            Kind::Http(_) => http_client::fetch(through, HTTP_PATH).await?,
            Kind::Smb(server) => server.fetch(through, SMB_NAME).await?,
        })
    }

    /// Returns whether a client got the file as it is on the server.
    #[must_use]
    pub fn has(&self, fetched: &Fetched) -> bool {
        fetched.bytes == self.content.len() as u64 && fetched.sha256[..] == Sha256::digest(&self.content)[..]
    }

    /// Changes a few bytes in the middle of the file.
    ///
    /// # Errors
    /// [`ServerError::Put`].
    pub fn change(&mut self) -> Result<(), ServerError> {
        let start = self.content.len() / 2;
        let changed = self.content[start..].iter_mut().take(CHANGED_BYTES);
        changed.for_each(|byte| *byte = !*byte);
        match &self.kind {
            Kind::Http(server) => server.put(HTTP_PATH, self.content.clone()),
            Kind::Smb(server) => {
                let changed = self.content[start..].iter().take(CHANGED_BYTES).copied().collect::<Vec<_>>();
                let mut file = std::fs::OpenOptions::new()
                    .write(true)
                    .open(server.share().join(SMB_NAME))
                    .map_err(ServerError::Put)?;
                file.seek(SeekFrom::Start(start as u64))
                    .and_then(|_| file.write_all(&changed))
                    .map_err(ServerError::Put)?;
            }
        }
        Ok(())
    }
}

/// Returns bytes that no compression shortens, the same for the same seed (splitmix64).
#[must_use]
pub fn content(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)).to_le_bytes()
    });
    words.flatten().take(len).collect()
}

const HTTP_PATH: &str = "/plan.bin";
const SMB_NAME: &str = "plan.bin";

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_is_small_in_place_and_what_clients_get() {
        let before = content(100_000, 3);
        let server = ContentServer::bind().await.unwrap();
        let mut server = Server::http(server, before.clone(), WanShape::default()).unwrap();
        let old = server.fetch(server.address()).await.unwrap();
        assert!(server.has(&old));
        server.change().unwrap();
        assert!(!server.has(&old));
        assert!(server.has(&server.fetch(server.address()).await.unwrap()));
        let changed = before.iter().zip(&server.content).filter(|(old, new)| old != new).count();
        assert_eq!((server.content.len(), changed), (100_000, CHANGED_BYTES));
    }
}
