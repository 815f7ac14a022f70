//! Which file a request works on, and which version of it, as far as this connection told.
//!
//! Owns the shares that were connected and the files that were opened here, seen whole: request and response. Refuses
//! to know where data lies in a file. It serves hints, and decides of which blocks a slice may be named: where it is
//! wrong about a place, a comparison is lost; where it were wrong about a version, a client might learn the hash of a
//! block that it may not read. So a version is told only for a file opened here by its name, for as long as nothing
//! was written to it through a file known here:
//!
//! - The exact bytes of the path and the name are part of it, and the times and the length that the CREATE response
//!   told. ChangeTime is among them because a change of the access rights sets it.
//! - A context that could make the server open something else than the name says, such as the reconnection of a durable
//!   handle, leaves the file unknown; so does one that is not known here.
//! - A related request works on the file of the request before it (MS-SMB2 3.3.5.2.7.2). If it names another itself,
//!   servers differ, and the file is unknown. So is the tree behind a TREE_CONNECT in the chain: its TreeId is not told
//!   yet, and the one in its header means nothing.
//!
//! FileIds belong to a session and may come from its other connections: those are unknown here. That an id still means
//! the file it was given out for rests on servers not giving ids out again soon after another connection closed them.
//!
//! What can go wrong: more files open than [`OPENS_MAX`], or more requests unanswered than [`AWAITED_MAX`]. Of the
//! files those are forgotten that were unused for longest, written ones last; of the requests the oldest. Content of
//! theirs belongs to no object. Times tell of a WRITE only once the file that wrote is closed, so whoever opens a file
//! that was written and forgotten may be told the version from before; and to which file somebody writes who was
//! forgotten, nobody here can say. From either on the connection tells no versions any more.

use std::collections::BTreeMap;

use wanigan_parsers::smb2::create::CreateAction;
use wanigan_parsers::smb2::{
    Command, ControlCode, CreateRequest, CreateResponse, FileId, MessageId, SessionId, ShareType, Status,
    TreeConnectResponse,
};

use super::names::{FileName, Share};
use super::walk::{Message, Tree};
use crate::object::{Object, Version};

/// The most files remembered for a connection.
pub(super) const OPENS_MAX: usize = 4096;

/// The most shares remembered for a connection.
const SHARES_MAX: usize = 256;

/// The most requests remembered that wait for a response which says more about files.
pub(super) const AWAITED_MAX: usize = 1024;

/// Shares and files of a connection.
#[derive(Default)]
pub(super) struct Files {
    shares: BTreeMap<Tree, Share>,
    opens: BTreeMap<OpenId, Open>,
    by_file_id: BTreeMap<(SessionId, FileId), OpenId>,
    /// `None` stands for an id that was used twice.
    awaited: BTreeMap<MessageId, Option<Awaited>>,
    /// The file of the request before in the chain.
    previous: Option<OpenId>,
    /// Whether all requests of the chain, up to here, work on the tree that the first one names.
    one_tree: bool,
    opened: u64,
    /// Requests that worked on a known file, so far.
    uses: u64,
    /// Files were forgotten that the server may still have open.
    lost_files: bool,
    /// Something may have been written to any file.
    lost_writes: bool,
}

/// Numbers the CREATE requests of a connection, so that a FileId that is given out again is told from itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OpenId(u64);

/// A file from its CREATE request to its CLOSE response.
struct Open {
    tree: Tree,
    name: FileName,
    file_id: Option<FileId>,
    version: Option<(Version, u64)>,
    /// Something was done through it that may have changed the content.
    changed: bool,
    /// Which of [`Files::uses`] was the last of it.
    used: u64,
}

/// What a response is awaited for.
enum Awaited {
    Connect(Share),
    Create(OpenId),
    Close(OpenId),
    Disconnect(Tree),
    Logoff(SessionId),
}

impl Files {
    /// Learns that a frame of requests begins.
    pub(super) fn begin_chain(&mut self) {
        self.previous = None;
    }

    /// Learns of a request and returns the file that it works on.
    pub(super) fn handle_request(&mut self, message: &Message<'_>) -> Option<OpenId> {
        let command = message.header.command;
        let works_on_tree = command == Command::CREATE || FileId::bytes_in_request(command) > 0;
        self.one_tree = works_on_tree && (self.one_tree || !message.header.is_related());
        let open = match command {
            Command::CREATE => self.create(message),
            _ => self.file(message),
        };
        self.previous = open;
        if let Some(open) = open.and_then(|open| self.opens.get_mut(&open)) {
            self.uses += 1;
            open.used = self.uses;
        }
        match (command, open) {
            (Command::CLOSE, Some(open)) => self.close(message, open),
            (_, Some(open)) if may_change(message) => self.change(open),
            (_, None) if may_change(message) => self.change_unknown(message),
            (Command::TREE_CONNECT, _) => {
                if let Some(share) = Share::requested(message) {
                    self.expect(message.header.message_id, Awaited::Connect(share));
                }
            }
            (Command::TREE_DISCONNECT, _) => {
                if let Some(tree) = message.tree {
                    self.expect(message.header.message_id, Awaited::Disconnect(tree));
                }
            }
            (Command::LOGOFF, _) => {
                let session = message.tree.map_or(message.header.session_id, |tree| tree.0);
                self.expect(message.header.message_id, Awaited::Logoff(session));
            }
            _ => {}
        }
        open
    }

    /// Learns of a final response.
    pub(super) fn handle_response(&mut self, message: &Message<'_>) {
        let header = &message.header;
        let success = header.is_response() && header.status == Status::SUCCESS;
        match (self.awaited.remove(&header.message_id).flatten(), header.command) {
            (Some(Awaited::Connect(share)), Command::TREE_CONNECT) if success => {
                self.connect(message, Some(share));
            }
            (None, Command::TREE_CONNECT) if success => self.connect(message, None),
            (Some(Awaited::Create(open)), Command::CREATE) if success => self.open(open, message.body),
            (None, Command::CREATE) if success => self.open_unknown(message),
            (Some(Awaited::Create(open)), Command::CREATE) => self.forget(open),
            (Some(Awaited::Close(open)), Command::CLOSE) if success => self.forget(open),
            (Some(Awaited::Disconnect(tree)), Command::TREE_DISCONNECT) if success => self.disconnect(tree),
            (Some(Awaited::Logoff(session)), Command::LOGOFF) if success => {
                while let Some(tree) = self.shares.keys().find(|tree| tree.0 == session).copied() {
                    self.disconnect(tree);
                }
            }
            // A file that could not be closed is rather forgotten than taken for another.
            (Some(Awaited::Create(open) | Awaited::Close(open)), _) => self.lose(open),
            // A tree that may still be connected keeps its files; whoever gets its id anew ends it.
            (Some(Awaited::Connect(_) | Awaited::Disconnect(_) | Awaited::Logoff(_)) | None, _) => {}
        }
    }

    /// Forgets what a response was awaited for: it came, and could not be read.
    pub(super) fn lose_response(&mut self, message_id: MessageId) {
        if let Some(Awaited::Create(open) | Awaited::Close(open)) = self.awaited.remove(&message_id).flatten()
        {
            self.lose(open);
        }
    }

    /// Returns what the content of a file belongs to, and its length if it has a version.
    pub(super) fn object(&self, open: Option<OpenId>) -> (Option<Object>, Option<u64>) {
        let Some(open) = open.and_then(|open| self.opens.get(&open)) else { return (None, None) };
        let version = open.version.map(|(version, _)| version);
        (Some(Object { place: open.name.place, version }), open.version.map(|(_, len)| len))
    }

    /// Finds the file that a request names.
    fn file(&self, message: &Message<'_>) -> Option<OpenId> {
        let file_id = FileId::of_request(message.header.command, message.body)?;
        if file_id == FileId::PREVIOUS {
            return self.previous.filter(|_| message.header.is_related());
        }
        let (session, _) = message.tree?;
        let open = self.by_file_id.get(&(session, file_id)).copied();
        open.filter(|open| !message.header.is_related() || self.previous == Some(*open))
    }

    fn create(&mut self, message: &Message<'_>) -> Option<OpenId> {
        let (_, request) = CreateRequest::parse(message.body).ok()?;
        let tree = message.tree.filter(|_| self.one_tree)?;
        let name = FileName::requested(message, &request, self.shares.get(&tree)?)?;
        while self.opens.len() >= OPENS_MAX {
            let (idle, _) = self.opens.iter().min_by_key(|(_, open)| (open.changed, open.used))?;
            self.lose(*idle);
        }
        self.opened += 1;
        let open = OpenId(self.opened);
        let used = self.uses;
        self.opens.insert(open, Open { tree, name, file_id: None, version: None, changed: false, used });
        if !request.disposition.keeps_content() {
            self.change(open);
        }
        self.expect(message.header.message_id, Awaited::Create(open));
        Some(open)
    }

    fn open(&mut self, open: OpenId, body: &[u8]) {
        let Ok((_, response)) = CreateResponse::parse(body) else { return self.lose(open) };
        if response.attributes.is_directory() {
            return self.forget(open);
        }
        if response.action != CreateAction::OPENED {
            self.change(open);
        }
        let Some((tree, name)) = self.opens.get(&open).map(|open| (open.tree, open.name)) else { return };
        // Another's WRITE may not be in the times yet.
        let changed = self.opens.values().any(|open| open.changed && open.name.place == name.place);
        let version =
            (!changed && !self.lost_writes).then(|| (version(&name, &response), response.end_of_file));
        if let Some(open) = self.opens.get_mut(&open) {
            open.version = version;
            open.file_id = Some(response.file_id);
        }
        if let Some(stale) = self.by_file_id.insert((tree.0, response.file_id), open) {
            self.opens.remove(&stale);
        }
    }

    /// Learns that a FileId means a file whose CREATE request was not understood.
    fn open_unknown(&mut self, message: &Message<'_>) {
        let Ok((_, response)) = CreateResponse::parse(message.body) else { return };
        let file = (message.header.session_id, response.file_id);
        if let Some(stale) = self.by_file_id.remove(&file) {
            self.opens.remove(&stale);
        }
    }

    /// Learns that a file may be closed from here on. It stays until the response, for READs under way.
    fn close(&mut self, message: &Message<'_>, open: OpenId) {
        self.unname(open);
        self.expect(message.header.message_id, Awaited::Close(open));
    }

    /// Ends the versions of all that is open at the place of a file.
    fn change(&mut self, open: OpenId) {
        let Some(open) = self.opens.get_mut(&open) else { return };
        if std::mem::replace(&mut open.changed, true) {
            // What was opened since has no version.
            return;
        }
        let place = open.name.place;
        for open in self.opens.values_mut().filter(|open| open.name.place == place) {
            open.version = None;
        }
    }

    /// Learns of something that may change the content of a file that is not known.
    fn change_unknown(&mut self, message: &Message<'_>) {
        // A pipe is none.
        let on_disk = message.tree.is_none_or(|tree| self.shares.contains_key(&tree));
        if !on_disk {
            return;
        }
        if self.lost_files {
            return self.end_versions();
        }
        // Its id may be that of a file whose CLOSE will turn out to have failed.
        let closing = |awaited: &Option<Awaited>| match awaited {
            Some(Awaited::Close(open)) => Some(*open),
            _ => None,
        };
        let closing: Vec<_> = self.awaited.values().filter_map(closing).collect();
        closing.into_iter().for_each(|open| self.change(open));
    }

    fn end_versions(&mut self) {
        if std::mem::replace(&mut self.lost_writes, true) {
            return;
        }
        for open in self.opens.values_mut() {
            open.version = None;
        }
    }

    fn connect(&mut self, message: &Message<'_>, share: Option<Share>) {
        let Some(tree_id) = message.header.tree_id else { return };
        let tree = (message.header.session_id, tree_id);
        self.disconnect(tree);
        let disk = TreeConnectResponse::parse(message.body)
            .is_ok_and(|(_, response)| response.share_type == ShareType::DISK);
        if let Some(share) = share.filter(|_| disk && self.shares.len() < SHARES_MAX) {
            self.shares.insert(tree, share);
        }
    }

    /// Learns that a tree is gone. What was open there may outlive it as a durable handle.
    fn disconnect(&mut self, tree: Tree) {
        self.shares.remove(&tree);
        let files: Vec<_> =
            self.opens.iter().filter(|(_, open)| open.tree == tree).map(|(id, _)| *id).collect();
        files.into_iter().for_each(|open| self.lose(open));
    }

    fn expect(&mut self, message_id: MessageId, awaited: Awaited) {
        while self.awaited.len() >= AWAITED_MAX {
            let Some((oldest, _)) = self.awaited.first_key_value() else { break };
            self.lose_response(*oldest);
        }
        let before = self.awaited.insert(message_id, None);
        if before.is_none() && message_id != MessageId::UNSOLICITED {
            self.awaited.insert(message_id, Some(awaited));
            return;
        }
        for lost in [before.flatten(), Some(awaited)].into_iter().flatten() {
            if let Awaited::Create(open) | Awaited::Close(open) = lost {
                self.lose(open);
            }
        }
    }

    /// Forgets a file that the server may still have open.
    fn lose(&mut self, open: OpenId) {
        let Some(Open { changed, .. }) = self.opens.get(&open) else { return };
        self.lost_files = true;
        if *changed {
            self.end_versions();
        }
        self.forget(open);
    }

    /// Forgets a file that the server has not open.
    fn forget(&mut self, open: OpenId) {
        self.unname(open);
        self.opens.remove(&open);
    }

    /// Takes a file's FileId from it.
    fn unname(&mut self, open: OpenId) {
        let Some(Open { tree, file_id, .. }) = self.opens.get_mut(&open) else { return };
        if let Some(file_id) = file_id.take() {
            self.by_file_id.remove(&(tree.0, file_id));
        }
    }
}

/// Returns whether a request other than CREATE may change the content of the file it works on.
fn may_change(message: &Message<'_>) -> bool {
    match message.header.command {
        Command::WRITE | Command::SET_INFO => true,
        Command::IOCTL => !ControlCode::parse(message.body).is_ok_and(|(_, code)| code.keeps_content()),
        _ => false,
    }
}

/// Names the version of a file that a CREATE response describes.
fn version(name: &FileName, response: &CreateResponse) -> Version {
    Version::of(&[
        &name.exact.0,
        &response.last_write_time.to_le_bytes(),
        &response.change_time.to_le_bytes(),
        &response.end_of_file.to_le_bytes(),
    ])
}
