//! The table that the demo prints: what each client got, and what crossed the WAN for it.
//!
//! ```text
//!              client got   WAN, both ways      share       time
//! HTTP, cold     16.0 MiB         16.3 MiB    101.9 %     6.91 s
//! HTTP, warm     16.0 MiB         71.0 KiB     0.43 %     0.21 s
//! ```

use std::fmt;
use std::time::Duration;

use super::Fetched;

/// Rows in the order in which they happened.
#[derive(Debug, Clone, Default)]
pub struct Table {
    lines: Vec<Line>,
}

#[derive(Debug, Clone)]
enum Line {
    Row { step: String, client_bytes: u64, wan_bytes: u64, elapsed: Duration },
    Note(String),
}

impl Table {
    /// Returns a table without rows.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a step: what the client got, and the bytes that crossed the WAN meanwhile, both ways together.
    pub fn row(&mut self, step: impl Into<String>, fetched: &Fetched, wan_bytes: u64) {
        self.lines.push(Line::Row {
            step: step.into(),
            client_bytes: fetched.bytes,
            wan_bytes,
            elapsed: fetched.elapsed,
        });
    }

    /// Adds a line of text, such as why rows are missing.
    pub fn note(&mut self, note: impl Into<String>) {
        self.lines.push(Line::Note(note.into()));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps = self.lines.iter().map(|line| match line {
            Line::Row { step, .. } => step.chars().count(),
            Line::Note(_) => 0,
        });
        let width = steps.max().unwrap_or(0);
        if width > 0 {
            writeln!(
                f,
                "{:width$}  {:>12}  {:>15}  {:>9}  {:>9}",
                "", "client got", "WAN, both ways", "share", "time"
            )?;
        }
        for line in &self.lines {
            match line {
                Line::Row { step, client_bytes, wan_bytes, elapsed } => writeln!(
                    f,
                    "{step:width$}  {:>12}  {:>15}  {:>9}  {:>9}",
                    size(*client_bytes),
                    size(*wan_bytes),
                    share(*wan_bytes, *client_bytes),
                    format!("{:.2} s", elapsed.as_secs_f64()),
                )?,
                Line::Note(note) => writeln!(f, "{note}")?,
            }
        }
        Ok(())
    }
}

fn size(bytes: u64) -> String {
    const KIB: f64 = 1024.0;
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let bytes_shown = bytes as f64;
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes_shown / KIB),
        _ => format!("{:.1} MiB", bytes_shown / (KIB * KIB)),
    }
}

fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    #[expect(clippy::cast_precision_loss, reason = "two decimals are shown")]
    let percent = part as f64 * 100.0 / whole as f64;
    if percent < 10.0 { format!("{percent:.2} %") } else { format!("{percent:.1} %") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_shares_are_of_what_the_client_got() {
        let mut table = Table::new();
        table.row("HTTP, cold", &fetched(64 << 20, 27_400), 66 << 20);
        table.row("HTTP, warm, other client", &fetched(64 << 20, 512), 300 << 10);
        table.note("SMB is left out: smbd is not installed");
        assert_eq!(
            table.to_string(),
            "                            client got   WAN, both ways      share       time\n\
             HTTP, cold                    64.0 MiB         66.0 MiB    103.1 %    27.40 s\n\
             HTTP, warm, other client      64.0 MiB        300.0 KiB     0.46 %     0.51 s\n\
             SMB is left out: smbd is not installed\n"
        );
    }

    #[test]
    fn small_and_empty_files_have_no_odd_figures() {
        let mut table = Table::new();
        table.row("x", &fetched(0, 0), 17);
        let text = table.to_string();
        assert!(text.contains("0 B") && text.contains("17 B") && text.contains(" - "), "{text}");
    }

    fn fetched(bytes: u64, elapsed_ms: u64) -> Fetched {
        Fetched { bytes, sha256: [0; 32], elapsed: Duration::from_millis(elapsed_ms) }
    }
}
