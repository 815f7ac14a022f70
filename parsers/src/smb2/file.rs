//! FileIds, and where requests have them (MS-SMB2 2.2.14.1).

use super::Command;

/// Names an open file within a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub [u8; 16]);

impl FileId {
    /// In a related request: the file of the request before it in the chain (MS-SMB2 3.3.5.2.7.2).
    pub const PREVIOUS: Self = Self([0xff; 16]);

    /// Returns how many bytes of the body of a request with this command reach to the end of its FileId, or 0 if such
    /// requests have none. An oplock break's acknowledgement is left out: it may be that of a lease, which has none.
    #[must_use]
    pub fn bytes_in_request(command: Command) -> usize {
        match command {
            Command::CLOSE
            | Command::FLUSH
            | Command::LOCK
            | Command::IOCTL
            | Command::QUERY_DIRECTORY
            | Command::CHANGE_NOTIFY => 24,
            Command::READ | Command::WRITE | Command::SET_INFO => 32,
            Command::QUERY_INFO => 40,
            _ => 0,
        }
    }

    /// Reads the FileId from the body of a request; `None` if the body is too short, or the request has none.
    #[must_use]
    pub fn of_request(command: Command, body: &[u8]) -> Option<Self> {
        body.get(..Self::bytes_in_request(command))?.last_chunk().copied().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_id_is_read_from_its_offset() {
        let body: Vec<u8> = (0..64).collect();
        for (command, offset) in [
            (Command::CLOSE, 8),
            (Command::FLUSH, 8),
            (Command::READ, 16),
            (Command::WRITE, 16),
            (Command::LOCK, 8),
            (Command::IOCTL, 8),
            (Command::QUERY_DIRECTORY, 8),
            (Command::CHANGE_NOTIFY, 8),
            (Command::QUERY_INFO, 24),
            (Command::SET_INFO, 16),
        ] {
            let expected = FileId(std::array::from_fn(|at| offset + at as u8));
            assert_eq!(FileId::of_request(command, &body), Some(expected), "{command:?}");
            let short = &body[..FileId::bytes_in_request(command) - 1];
            assert_eq!(FileId::of_request(command, short), None, "{command:?}");
        }
        for command in [Command::NEGOTIATE, Command::CREATE, Command::CANCEL, Command(0x77)] {
            assert_eq!(FileId::of_request(command, &body), None, "{command:?}");
        }
    }
}
