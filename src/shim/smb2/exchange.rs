//! Matches responses to requests and decides which bytes of a message are file content.
//!
//! Owns what the two directions of a connection must know of each other: pending READs, the trees that hold pipes, and
//! through [`Files`] what is open. Refuses to know how messages are found in the stream. Where data belongs in its file
//! is in the READ request itself; which file that is only says what the content may be compared with.
//!
//! A READ response's data is content only if every check of [`Exchange::read_content`] holds; whatever fails one is
//! opaque, with the reason counted.

use std::collections::BTreeSet;

use wanigan_parsers::Direction;
use wanigan_parsers::smb2::read::Channel;
use wanigan_parsers::smb2::{
    Command, CreateResponse, FileId, Header, MessageId, ProtocolId, ReadRequest, ReadResponse, ShareType,
    Status, TreeConnectResponse, WriteRequest,
};

use super::files::{Files, OpenId};
use super::names::{CREATE_BYTES_MAX, TREE_CONNECT_BYTES_MAX};
use super::pending::{PendingRead, PendingReads, TableFull};
use super::walk::{Judge, Message, Payload, Tree};
use crate::fault::{OpaqueReason, Protocol};

/// The most pipe trees remembered for a connection; a client has one a session, IPC$. Those beyond are read as files,
/// which does no harm but to the counters.
const PIPE_TREES_MAX: usize = 256;

/// What the directions of a connection know of each other.
#[derive(Default)]
pub(super) struct Exchange {
    reads: PendingReads,
    pipes: BTreeSet<Tree>,
    files: Files,
    smb1_seen: bool,
    smb2_seen: bool,
    /// The server has sent frames that cannot be looked into: they may have answered any pending READ.
    answers_hidden: bool,
    stopped: Option<OpaqueReason>,
}

/// An exchange as one direction's judge.
pub(super) struct Side<'a> {
    pub(super) direction: Direction,
    pub(super) exchange: &'a mut Exchange,
}

impl Exchange {
    /// Returns why the connection is opaque for good, if it is.
    pub(super) fn stopped(&self) -> Option<OpaqueReason> {
        self.stopped
    }

    /// Returns the dialect family spoken so far; SMB1 as long as only SMB1 was seen.
    pub(super) fn protocol(&self) -> Protocol {
        if self.smb1_seen && !self.smb2_seen { Protocol::Smb1 } else { Protocol::Smb2 }
    }

    fn judge_request(&mut self, message: &Message<'_>) -> Payload {
        // A response from the client answers nothing.
        if message.header.is_response() {
            return Payload::opaque(message, OpaqueReason::Framing);
        }
        let open = self.files.handle_request(message);
        match message.header.command {
            Command::READ => self.remember_read(message, open),
            Command::WRITE => {
                return self
                    .write_content(message, open)
                    .unwrap_or_else(|reason| Payload::opaque(message, reason));
            }
            _ => {}
        }
        Payload::opaque(message, OpaqueReason::Framing)
    }

    fn remember_read(&mut self, message: &Message<'_>, open: Option<OpenId>) {
        let message_id = message.header.message_id;
        let Some(read) = pending_read(message, open) else {
            // Its response must not pass for that of another READ with the same id.
            self.reads.remove(message_id);
            return;
        };
        let mut inserted = self.reads.insert(message_id, read);
        if inserted == Err(TableFull) && self.answers_hidden {
            self.reads.remove_oldest();
            inserted = self.reads.insert(message_id, read);
        }
        if inserted == Err(TableFull) {
            self.stopped = Some(OpaqueReason::TooManyPending);
        }
    }

    /// Finds the data of a WRITE request.
    fn write_content(&self, message: &Message<'_>, open: Option<OpenId>) -> Result<Payload, OpaqueReason> {
        let (_, write) = WriteRequest::parse(message.body).map_err(|_| OpaqueReason::SmbUnmatched)?;
        if write.length == 0 || write.channel != Channel::NONE {
            return Err(OpaqueReason::Framing);
        }
        if self.is_pipe(message.tree) {
            return Err(OpaqueReason::SmbPipe);
        }
        // An offset of all ones appends: only the server knows where.
        let placed = write.offset.checked_add(u64::from(write.length)).is_some();
        if !placed || write.data_offset < WriteRequest::DATA_OFFSET_MIN {
            return Err(OpaqueReason::SmbUnmatched);
        }
        let (object, _) = self.files.object(open);
        Payload::content(message, usize::from(write.data_offset), write.length as usize, write.offset)
            .map(|payload| payload.of(object, false))
            .ok_or(OpaqueReason::SmbUnmatched)
    }

    fn judge_response(&mut self, message: &Message<'_>) -> Payload {
        let header = &message.header;
        let reason = match header.command {
            Command::READ if !header.is_response() => OpaqueReason::SmbUnmatched,
            // An interim response: the final one is still to come (MS-SMB2 3.3.4.4).
            _ if header.status == Status::PENDING => OpaqueReason::Framing,
            Command::READ => {
                let read = self.reads.remove(header.message_id);
                self.files.handle_response(message);
                return self
                    .read_content(message, read)
                    .unwrap_or_else(|reason| Payload::opaque(message, reason));
            }
            command => {
                self.reads.remove(header.message_id);
                self.files.handle_response(message);
                if command == Command::TREE_CONNECT {
                    self.remember_tree(message);
                }
                OpaqueReason::Framing
            }
        };
        Payload::opaque(message, reason)
    }

    /// Finds the data of a final READ response.
    fn read_content(
        &self,
        message: &Message<'_>,
        read: Option<PendingRead>,
    ) -> Result<Payload, OpaqueReason> {
        let is_pipe = self.is_pipe(message.tree) || self.is_pipe(read.and_then(|read| read.tree));
        match message.header.status {
            Status::SUCCESS => {}
            Status::BUFFER_OVERFLOW if is_pipe => return Err(OpaqueReason::SmbPipe),
            _ => return Err(OpaqueReason::Framing),
        }
        let (_, response) = ReadResponse::parse(message.body).map_err(|_| OpaqueReason::SmbUnmatched)?;
        if response.data_length == 0 {
            return Err(OpaqueReason::Framing);
        }
        if is_pipe {
            return Err(OpaqueReason::SmbPipe);
        }
        let read = read.ok_or(OpaqueReason::SmbUnmatched)?;
        if response.data_offset < ReadResponse::DATA_OFFSET_MIN
            || response.data_length > read.length
            || response.flags & ReadResponse::RDMA_TRANSFORM != 0
        {
            return Err(OpaqueReason::SmbUnmatched);
        }
        let (data_offset, data_length) = (usize::from(response.data_offset), response.data_length as usize);
        let (object, len) = self.files.object(read.open);
        let behind = read.offset + u64::from(response.data_length);
        let end = response.data_length < read.length || len.is_some_and(|len| behind >= len);
        Payload::content(message, data_offset, data_length, read.offset)
            .map(|payload| payload.of(object, end))
            .ok_or(OpaqueReason::SmbUnmatched)
    }

    fn remember_tree(&mut self, message: &Message<'_>) {
        let header = &message.header;
        let (Status::SUCCESS, Some(tree_id)) = (header.status, header.tree_id) else { return };
        let Ok((_, response)) = TreeConnectResponse::parse(message.body) else { return };
        let tree = (header.session_id, tree_id);
        if response.share_type != ShareType::PIPE {
            // The id may have been that of a pipe that was disconnected.
            self.pipes.remove(&tree);
        } else if self.pipes.len() < PIPE_TREES_MAX {
            self.pipes.insert(tree);
        }
    }

    fn is_pipe(&self, tree: Option<Tree>) -> bool {
        tree.is_some_and(|tree| self.pipes.contains(&tree))
    }
}

impl Judge for Side<'_> {
    fn body_bytes(&self, header: &Header) -> usize {
        match (self.direction, header.command) {
            (Direction::ToServer, Command::READ) => ReadRequest::BYTES,
            (Direction::ToServer, Command::WRITE) => WriteRequest::BYTES,
            (Direction::ToServer, Command::TREE_CONNECT) => TREE_CONNECT_BYTES_MAX,
            (Direction::ToServer, Command::CREATE) => CREATE_BYTES_MAX,
            (Direction::ToServer, command) => FileId::bytes_in_request(command),
            (Direction::ToClient, Command::READ) => ReadResponse::BYTES,
            (Direction::ToClient, Command::TREE_CONNECT) => TreeConnectResponse::BYTES,
            (Direction::ToClient, Command::CREATE) => CreateResponse::BYTES,
            _ => 0,
        }
    }

    fn judge(&mut self, message: &Message<'_>) -> Payload {
        match self.direction {
            Direction::ToServer => self.exchange.judge_request(message),
            Direction::ToClient => self.exchange.judge_response(message),
        }
    }

    fn open_frame(&mut self, protocol_id: ProtocolId) -> OpaqueReason {
        let exchange = &mut *self.exchange;
        if self.direction == Direction::ToServer {
            exchange.files.begin_chain();
        }
        let hidden = match protocol_id {
            ProtocolId::SMB2 => OpaqueReason::Framing,
            ProtocolId::TRANSFORM => OpaqueReason::SmbEncrypted,
            ProtocolId::COMPRESSION => OpaqueReason::SmbCompressed,
            ProtocolId::SMB1 => {
                exchange.smb1_seen = true;
                return OpaqueReason::Smb1;
            }
            // The answer to SMB1's READ_RAW is a frame of nothing but file bytes (MS-CIFS 2.2.4.22.2).
            _ if exchange.protocol() == Protocol::Smb1 => return OpaqueReason::Smb1,
            _ => return OpaqueReason::UnknownProtocol,
        };
        exchange.smb2_seen = true;
        exchange.answers_hidden |= self.direction == Direction::ToClient && hidden != OpaqueReason::Framing;
        hidden
    }

    fn pass_over(&mut self, header: &Header) {
        if self.direction == Direction::ToClient {
            self.exchange.reads.remove(header.message_id);
            self.exchange.files.lose_response(header.message_id);
        }
    }

    fn lose_stream(&mut self) {
        self.exchange.stopped = Some(OpaqueReason::Malformed);
    }
}

/// Reads a READ request whose response can be told from others and has its data in it.
fn pending_read(message: &Message<'_>, open: Option<OpenId>) -> Option<PendingRead> {
    let (_, read) = ReadRequest::parse(message.body).ok()?;
    let placed = read.offset.checked_add(u64::from(read.length)).is_some();
    (placed && read.channel == Channel::NONE && message.header.message_id != MessageId::UNSOLICITED)
        .then_some(PendingRead { offset: read.offset, length: read.length, tree: message.tree, open })
}
