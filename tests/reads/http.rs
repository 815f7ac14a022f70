//! A web server over the truth, and a client of it. The client reads for itself, without the parsers that are tested.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{read_more, trickle};
use crate::dice::Dice;
use crate::truth::{Answer, Ask, Truth, part};

/// Serves one connection until its client ends it.
///
/// The first part of a path says what the server tells of a file: whether it has an `ETag`, is for one client alone, or of a
/// length that is not known before.
pub(crate) async fn serve(mut stream: TcpStream, truth: Arc<Truth>, mut dice: Dice) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    while let Some(head) = read_head(&mut stream, &mut buffer).await? {
        let field = |name| head.lines().find_map(|line| line.strip_prefix(name));
        let path = head.split(' ').nth(1).unwrap();
        if head.starts_with("PUT ") {
            let length: usize = field("Content-Length: ").unwrap().parse().unwrap();
            while buffer.len() < length {
                if read_more(&mut stream, &mut buffer).await.is_err() {
                    return Ok(());
                }
            }
            let version = truth.write(path, buffer.split_to(length).to_vec());
            let answer = format!("HTTP/1.1 201 Created\r\nX-Version: {version}\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await?;
            continue;
        }
        let (version, content) = truth.now(path);
        let range = field("Range: bytes=").map(|range| {
            let (first, last) = range.split_once('-').unwrap();
            first.parse().unwrap()..last.parse::<usize>().unwrap() + 1
        });
        let body = part(&content, range.clone());
        let mut head = match &range {
            None => "HTTP/1.1 200 OK\r\n".to_owned(),
            Some(_) if body.is_empty() => "HTTP/1.1 416 Range Not Satisfiable\r\n".to_owned(),
            Some(range) => {
                let (first, last) = (range.start, range.start + body.len() - 1);
                format!(
                    "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {first}-{last}/{}\r\n",
                    content.len()
                )
            }
        };
        head.push_str(&format!("X-Version: {version}\r\n"));
        match path.split('/').nth(1).unwrap() {
            "untagged" => {}
            "private" => head.push_str(&format!("ETag: \"{version}\"\r\nSet-Cookie: one=you\r\n")),
            _ => head.push_str(&format!("ETag: \"{version}\"\r\n")),
        }
        if path.starts_with("/chunked") && range.is_none() {
            stream.write_all((head + "Transfer-Encoding: chunked\r\n\r\n").as_bytes()).await?;
            let mut rest = body;
            while !rest.is_empty() {
                let size = dice.pick(&[10, 1_000, 70_000, 500_000]);
                let chunk = rest.split_off(..(1 + dice.below(size)).min(rest.len())).unwrap();
                stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).await?;
                stream.write_all(&[chunk, b"\r\n"].concat()).await?;
            }
            stream.write_all(b"0\r\n\r\n").await?;
        } else {
            stream.write_all((head + &format!("Content-Length: {}\r\n\r\n", body.len())).as_bytes()).await?;
            trickle(&mut stream, body, &mut dice).await?;
        }
    }
    Ok(())
}

/// A client's connection.
pub(crate) struct Http {
    stream: TcpStream,
    buffer: BytesMut,
    pending: VecDeque<Ask>,
}

impl Http {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: BytesMut::new(), pending: VecDeque::new() }
    }

    pub(crate) async fn ask(&mut self, ask: Ask) -> io::Result<()> {
        let range = ask.range.as_ref();
        let range = range.map(|range| format!("Range: bytes={}-{}\r\n", range.start, range.end - 1));
        let head = format!("GET {} HTTP/1.1\r\nHost: h\r\n{}\r\n", ask.path, range.unwrap_or_default());
        self.pending.push_back(ask);
        self.stream.write_all(head.as_bytes()).await
    }

    /// Reads the next answer into `answer`, or as much of it as `limit` says. Returns what was asked, if its answer began.
    pub(crate) async fn answer(
        &mut self,
        answer: &mut Answer,
        limit: usize,
    ) -> (Option<Ask>, io::Result<()>) {
        let mut head = String::new();
        let ended = self.answer_to_head(&mut head, answer, limit).await;
        let ask = (!head.is_empty()).then(|| self.pending.pop_front().expect("it was asked for"));
        (ask, ended)
    }

    async fn answer_to_head(
        &mut self,
        head: &mut String,
        answer: &mut Answer,
        limit: usize,
    ) -> io::Result<()> {
        *head = read_head(&mut self.stream, &mut self.buffer).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let field = |name| head.lines().find_map(|line| line.strip_prefix(name));
        answer.version = field("X-Version: ").unwrap().parse().unwrap();
        if let Some(length) = field("Content-Length: ") {
            let length: usize = length.parse().unwrap();
            self.take(length.min(limit), answer).await?;
            answer.whole = length <= limit;
            return Ok(());
        }
        assert!(head.contains("Transfer-Encoding: chunked"), "{head}");
        while answer.bytes.len() < limit {
            let line = self.line().await?;
            let len = usize::from_str_radix(&line, 16).unwrap();
            self.take(len, answer).await?;
            assert_eq!(self.line().await?, "");
            if len == 0 {
                answer.whole = true;
                break;
            }
        }
        Ok(())
    }

    /// Uploads a content and returns the number that the server gave it.
    pub(crate) async fn put(&mut self, path: &str, content: &[u8], dice: &mut Dice) -> io::Result<usize> {
        let head = format!("PUT {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", content.len());
        self.stream.write_all(head.as_bytes()).await?;
        trickle(&mut self.stream, content, dice).await?;
        let mut answer = Answer::default();
        self.answer_to_head(&mut String::new(), &mut answer, usize::MAX).await?;
        Ok(answer.version)
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    async fn take(&mut self, len: usize, answer: &mut Answer) -> io::Result<()> {
        let end = answer.bytes.len() + len;
        loop {
            let some = self.buffer.split_to(self.buffer.len().min(end - answer.bytes.len()));
            answer.bytes.extend_from_slice(&some);
            if answer.bytes.len() == end {
                return Ok(());
            }
            read_more(&mut self.stream, &mut self.buffer).await?;
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8(self.buffer.split_to(end).to_vec()).unwrap();
                self.buffer.advance(2);
                return Ok(line);
            }
            read_more(&mut self.stream, &mut self.buffer).await?;
        }
    }
}

/// Reads a head with its empty line; `None` where the connection ends before one.
async fn read_head(stream: &mut TcpStream, buffer: &mut BytesMut) -> io::Result<Option<String>> {
    loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            return Ok(Some(String::from_utf8(buffer.split_to(end + 4).to_vec()).unwrap()));
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}
