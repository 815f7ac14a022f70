//! Content servers and caches, each with files of its own below the lab's directory: nothing of the machine's is read or
//! written.

pub mod nginx;
pub mod rsyncd;
pub mod smbd;
pub mod squid;
