//! What shims mark in streams made by hand and in recorded ones, under any segmentation, and what the two halves of a
//! flow make of it.

// `cfg(test)` tells clippy that helpers may unwrap, too.
#[cfg(test)]
#[path = "support/capture.rs"]
mod capture;
#[cfg(test)]
#[path = "shims/captures.rs"]
mod captures;
#[cfg(test)]
#[path = "shims/detecting.rs"]
mod detecting;
#[cfg(test)]
#[path = "shims/files.rs"]
mod files;
#[cfg(test)]
#[path = "shims/messages.rs"]
mod messages;
#[cfg(test)]
#[path = "shims/pair.rs"]
mod pair;
#[cfg(test)]
#[path = "shims/smb2.rs"]
mod smb2;
#[cfg(test)]
#[path = "support/spans.rs"]
mod spans;
