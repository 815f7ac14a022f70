//! A file server over the truth, and a client of it: the messages of SMB2 that reading and writing take, no sessions.
//!
//! The server tells of which version a message is where its signature would be, which is nobody's business in between.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::client::{read_more, trickle};
use crate::dice::Dice;
use crate::messages::{
    CREATE, END_OF_FILE, OPENED, Opened, READ, RESPONSE, TREE_CONNECT, WRITE, create_request,
    create_response, error_response, frame, message, of_file, read_request, read_response,
    tree_connect_request, tree_connect_response, write_request,
};
use crate::truth::{Answer, Ask, Truth, part};

/// Serves one connection until its client ends it.
pub(crate) async fn serve(mut stream: TcpStream, truth: Arc<Truth>, mut dice: Dice) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    let mut open = HashMap::new();
    // An answer that others overtake.
    let mut late: Option<Vec<u8>> = None;
    loop {
        while !has_frame(&buffer) {
            if let Some(late) = late.take() {
                trickle(&mut stream, &late, &mut dice).await?;
            }
            if read_more(&mut stream, &mut buffer).await.is_err() {
                return Ok(());
            }
        }
        let request = take_frame(&mut buffer);
        let answer = frame(&answer(&request, &truth, &mut open, &mut dice));
        if dice.chance(150) && late.is_none() {
            late = Some(answer);
        } else {
            trickle(&mut stream, &answer, &mut dice).await?;
        }
    }
}

fn answer(request: &[u8], truth: &Truth, open: &mut HashMap<[u8; 16], String>, dice: &mut Dice) -> Vec<u8> {
    let id = u64::from_le_bytes(request[24..32].try_into().unwrap());
    let body = &request[64..];
    let u32_at = |at: usize| u32::from_le_bytes(body[at..at + 4].try_into().unwrap()) as usize;
    let file = |at: usize| &open[&body[at..at + 16]];
    let (version, mut answer) = match u16::from_le_bytes([request[12], request[13]]) {
        TREE_CONNECT => (0, tree_connect_response(id, 1)),
        CREATE => {
            let len = usize::from(u16::from_le_bytes([body[46], body[47]]));
            let units: Vec<u16> =
                body[56..56 + len].chunks(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
            let path = format!("/{}", String::from_utf16(&units).unwrap().replace('\\', "/"));
            let (version, content) = truth.now(&path);
            let (file, time) = (dice.bytes(), version as u64 + 1);
            open.insert(file, path);
            let opened = Opened { file, last_write: time, change: time, len: content.len() as u64, ..OPENED };
            (version, create_response(id, opened))
        }
        READ => {
            let (length, offset) = (u32_at(4), u32_at(8));
            let (version, content) = truth.now(file(16));
            match part(&content, Some(offset..offset + length)) {
                [] => (version, error_response(READ, 0, END_OF_FILE, id)),
                data => (version, read_response(id, data)),
            }
        }
        WRITE => {
            let (length, offset) = (u32_at(4), u32_at(8));
            let version = truth.write_at(file(16), offset, &body[48..48 + length]);
            let mut told = [0; 16];
            told[0] = 17;
            told[4..8].copy_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
            (version, message(WRITE, RESPONSE, 0, id, &told))
        }
        other => panic!("nobody sends command {other}"),
    };
    answer[48..56].copy_from_slice(&(version as u64).to_le_bytes());
    answer
}

/// A client's connection.
pub(crate) struct Smb {
    stream: TcpStream,
    buffer: BytesMut,
    next_id: u64,
    open: HashMap<String, [u8; 16]>,
    pending: HashMap<u64, Ask>,
}

impl Smb {
    /// Connects the share.
    pub(crate) async fn new(stream: TcpStream) -> io::Result<Self> {
        let (open, pending) = Default::default();
        let mut smb = Self { stream, buffer: BytesMut::new(), next_id: 1, open, pending };
        smb.call(|id| tree_connect_request(id, r"\\srv\share")).await?;
        Ok(smb)
    }

    /// Asks for a part of a file; one that is not open is opened, while nothing else is asked.
    pub(crate) async fn ask(&mut self, ask: Ask) -> io::Result<()> {
        let file = self.open[&ask.path];
        let range = ask.range.clone().unwrap_or(0..LARGEST);
        let length = u32::try_from(range.len()).unwrap();
        let id = self.next_id;
        self.next_id += 1;
        self.pending.insert(id, ask);
        let request = of_file(read_request(id, range.start as u64, length), file);
        self.stream.write_all(&frame(&request)).await
    }

    /// Opens a file for what is asked of it.
    pub(crate) async fn open(&mut self, path: &str, anew: bool) -> io::Result<()> {
        if anew || !self.open.contains_key(path) {
            let name = path[1..].replace('/', "\\");
            let opened = self.call(|id| create_request(id, &name, &[])).await?;
            self.open.insert(path.to_owned(), opened[64 + 64..64 + 80].try_into().unwrap());
        }
        Ok(())
    }

    /// Reads the next answer into `answer`, or as much of it as `limit` says. Returns what was asked, if its answer began.
    pub(crate) async fn answer(
        &mut self,
        answer: &mut Answer,
        limit: usize,
    ) -> (Option<Ask>, io::Result<()>) {
        if let Err(error) = self.fill(4 + 64 + 9).await {
            return (None, Err(error));
        }
        let rest = u32::from_be_bytes(self.buffer[..4].try_into().unwrap()) as usize - 64;
        let head = self.buffer.split_to(4 + 64).split_off(4);
        let id = u64::from_le_bytes(head[24..32].try_into().unwrap());
        let ask = self.pending.remove(&id).expect("it was asked for");
        answer.version = u64::from_le_bytes(head[48..56].try_into().unwrap()) as usize;
        let failed = head[8..12] != [0; 4];
        let before = if failed { rest } else { 16 };
        if let Err(error) = self.fill(before).await {
            return (Some(ask), Err(error));
        }
        drop(self.buffer.split_to(before));
        let ended = self.take(rest - before, answer, limit).await;
        (Some(ask), ended)
    }

    async fn take(&mut self, len: usize, answer: &mut Answer, limit: usize) -> io::Result<()> {
        let end = len.min(limit);
        loop {
            let some = self.buffer.split_to(self.buffer.len().min(end - answer.bytes.len()));
            answer.bytes.extend_from_slice(&some);
            if answer.bytes.len() == end {
                answer.whole = len == end;
                return Ok(());
            }
            read_more(&mut self.stream, &mut self.buffer).await?;
        }
    }

    /// Writes into a file and returns the number of the version that this made.
    pub(crate) async fn write(
        &mut self,
        path: &str,
        offset: usize,
        data: &[u8],
        dice: &mut Dice,
    ) -> io::Result<usize> {
        let file = self.open[path];
        let id = self.next_id;
        self.next_id += 1;
        let request = frame(&of_file(write_request(id, offset as u64, data), file));
        trickle(&mut self.stream, &request, dice).await?;
        let answer = self.one().await?;
        Ok(u64::from_le_bytes(answer[48..56].try_into().unwrap()) as usize)
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    async fn call(&mut self, request: impl FnOnce(u64) -> Vec<u8>) -> io::Result<BytesMut> {
        let id = self.next_id;
        self.next_id += 1;
        self.stream.write_all(&frame(&request(id))).await?;
        self.one().await
    }

    async fn one(&mut self) -> io::Result<BytesMut> {
        while !has_frame(&self.buffer) {
            read_more(&mut self.stream, &mut self.buffer).await?;
        }
        Ok(take_frame(&mut self.buffer))
    }

    async fn fill(&mut self, len: usize) -> io::Result<()> {
        while self.buffer.len() < len {
            read_more(&mut self.stream, &mut self.buffer).await?;
        }
        Ok(())
    }
}

fn has_frame(buffer: &BytesMut) -> bool {
    buffer.len() >= 4 && buffer.len() - 4 >= u32::from_be_bytes(buffer[..4].try_into().unwrap()) as usize
}

fn take_frame(buffer: &mut BytesMut) -> BytesMut {
    let len = u32::from_be_bytes(buffer[..4].try_into().unwrap()) as usize;
    buffer.split_to(4 + len).split_off(4)
}

/// The longest READ that is made (MS-SMB2 has servers allow 8 MiB).
const LARGEST: usize = 8 << 20;
