//! A conversation with `nft -i`: one command a line, each answered before the next is sent.
//!
//! nft is silent about commands that succeed, and buffers its standard output. So each command is followed by a
//! word that is no command: nft complains about it, on the unbuffered standard error, quoting it, and whatever was
//! said before concerns the command. The child's life is the table's life, so it is kept out of our process group:
//! a Ctrl-C at our terminal must not end it before us.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStderr, ChildStdin, Command};

use super::NFT;
use crate::intercept::InterceptError;

/// A running `nft -i`. Dropping it kills the child; its tables go with it, before the drop returns.
#[derive(Debug)]
pub(super) struct Console {
    child: Child,
    input: ChildStdin,
    errors: ChildStderr,
    asked: u64,
}

impl Console {
    pub(super) fn open() -> Result<Self, InterceptError> {
        let mut child = Command::new(NFT)
            .arg("-i")
            // It keeps a history of commands in its home directory.
            .env("HOME", "/nonexistent")
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| InterceptError::Program { program: NFT, source })?;
        let input = child.stdin.take().expect("standard input is piped");
        let errors = child.stderr.take().expect("standard error is piped");
        Ok(Self { child, input, errors, asked: 0 })
    }

    /// Has one line carried out, as one transaction.
    pub(super) async fn command(&mut self, task: &'static str, line: &str) -> Result<(), InterceptError> {
        self.asked += 1;
        let marker = format!("wanigan-asks-{}", self.asked);
        let talk = async {
            self.input.write_all(format!("{line}\n{marker}\n").as_bytes()).await?;
            self.input.flush().await?;
            answer(&mut self.errors, &marker).await
        };
        let message = match tokio::time::timeout(ANSWER_TIMEOUT, talk).await {
            Ok(Ok(answer)) => complaints(&answer, &marker),
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("no answer".to_owned()),
        };
        match message {
            None => Ok(()),
            Some(message) => Err(InterceptError::Rejected { program: NFT, task, message }),
        }
    }

    /// Waits until the child is gone. Cancel safe.
    pub(super) async fn ended(&mut self) -> InterceptError {
        let status = self.child.wait().await;
        let mut said = vec![0; 1024];
        let len = match tokio::time::timeout(EXIT_TIMEOUT, self.errors.read(&mut said)).await {
            Ok(Ok(len)) => len,
            Ok(Err(_)) | Err(_) => 0,
        };
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        InterceptError::Lost { status, message: String::from_utf8_lossy(&said[..len]).trim().to_owned() }
    }

    /// Ends the child and waits until the table is gone with it.
    pub(super) async fn close(mut self) {
        // SIGKILL is as orderly as any end: the kernel removes the table either way.
        let _ = tokio::time::timeout(EXIT_TIMEOUT, self.child.kill()).await;
    }
}

impl Drop for Console {
    /// Waits for the end, a few milliseconds: a redirect must not outlive the listener that is dropped next.
    fn drop(&mut self) {
        let _ = self.child.start_kill();
        for _ in 0..DROP_WAITS {
            if !matches!(self.child.try_wait(), Ok(None)) {
                break;
            }
            std::thread::sleep(DROP_WAIT);
        }
    }
}

/// Reads until the marker was quoted.
async fn answer(errors: &mut ChildStderr, marker: &str) -> std::io::Result<String> {
    let mut said = Vec::new();
    loop {
        if errors.read_buf(&mut said).await? == 0 {
            let text = String::from_utf8_lossy(&said).trim().to_owned();
            return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, format!("nft ended: {text}")));
        }
        if let Some(at) = find(&said, marker.as_bytes()) {
            said.truncate(at);
            return Ok(String::from_utf8_lossy(&said).into_owned());
        }
        // A refused command is quoted whole; its beginning and the end tell all.
        if said.len() > SAID_BYTES_MAX {
            said.drain(SAID_BYTES_MAX / 2..said.len() - marker.len());
        }
    }
}

fn find(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).position(|window| window == word)
}

/// Returns what nft said about the command, without its last complaint, which is about the marker.
fn complaints(answer: &str, marker: &str) -> Option<String> {
    debug_assert!(!answer.contains(marker));
    let mut lines: Vec<&str> = answer.lines().filter(|line| is_message(line)).collect();
    lines.pop();
    // One for each rule, often.
    lines.dedup();
    let rest = lines.join("; ");
    (!rest.is_empty()).then_some(rest)
}

/// Tells messages from quotations of the command and the carets below them.
fn is_message(line: &str) -> bool {
    line.contains("Error") || line.contains("not permitted") || line.starts_with("netlink:")
}

const SAID_BYTES_MAX: usize = 16 * 1024;
/// Thousands of networks take nft well under a second; a stalled machine may take longer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);
const DROP_WAIT: Duration = Duration::from_millis(1);
const DROP_WAITS: u32 = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_before_the_marker_is_success() {
        let said = "             ^\nError: syntax error, unexpected newline, expecting string\n";
        assert_eq!(complaints(said, "wanigan-asks-1"), None);
    }

    #[test]
    fn a_complaint_about_the_command_is_kept_without_the_quotation() {
        let said = "Error: Could not process rule: Operation not permitted\nadd table inet t\n^^^^^^^^^^^^^^^^^\n\
                    Operation not permitted (you must be root)\nError: syntax error, unexpected newline\n";
        let message = complaints(said, "wanigan-asks-1").unwrap();
        assert_eq!(
            message,
            "Error: Could not process rule: Operation not permitted; Operation not permitted (you must be root)"
        );
    }
}
