//! Rust files as the house's checks see them: lines of code without comments and tests.

use std::fs;
use std::path::{Path, PathBuf};

/// One file.
pub(crate) struct Source {
    /// From the repository's root, with slashes.
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Source {
    pub(crate) fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self { path: path.into(), text: text.into() }
    }

    /// Returns the module of `src/` that the file belongs to.
    pub(crate) fn module(&self) -> String {
        let below = self.path.strip_prefix("src/").unwrap_or(&self.path);
        below.split('/').next().unwrap_or(below).trim_end_matches(".rs").to_owned()
    }

    /// Returns the lines with code, numbered from 1, up to the tests, which come last.
    pub(crate) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines: Vec<&str> = self.text.lines().collect();
        let end = (0..lines.len())
            .find(|at| is_test_gate(lines[*at]) && lines.get(at + 1).is_some_and(|line| line.ends_with('{')))
            .unwrap_or(lines.len());
        let gated: Vec<bool> = (0..end).map(|at| at > 0 && is_test_gate(lines[at - 1])).collect();
        lines
            .into_iter()
            .take(end)
            .enumerate()
            .filter(move |(at, line)| !gated[*at] && !is_test_gate(line))
            .map(|(at, line)| (at + 1, without_comment(line)))
            .filter(|(_, code)| !code.trim().is_empty())
    }

    /// Returns the files and directories of modules that exist in tests only.
    pub(crate) fn test_modules(&self) -> Vec<String> {
        let dir = match self.path.as_str() {
            "src/lib.rs" | "parsers/src/lib.rs" | "lab/src/lib.rs" => self.path.trim_end_matches("/lib.rs"),
            path => path.trim_end_matches(".rs"),
        };
        let lines: Vec<&str> = self.text.lines().collect();
        let declared = lines.windows(2).filter(|pair| is_test_gate(pair[0])).filter_map(|pair| {
            pair[1].trim().trim_start_matches("pub(super) ").strip_prefix("mod ")?.strip_suffix(';')
        });
        declared.flat_map(|name| [format!("{dir}/{name}.rs"), format!("{dir}/{name}/")]).collect()
    }
}

/// Returns the Rust files under a directory of the repository, without those that exist in tests only.
pub(crate) fn sources(dir: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let rust = repository_files().into_iter().filter(|path| {
        path.ends_with(".rs") && path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
    });
    let all: Vec<Source> = rust
        .map(|path| Source::new(&*path, fs::read_to_string(root.join(&path)).expect("source is text")))
        .collect();
    assert!(!all.is_empty(), "there is no Rust in {dir}");
    let tests: Vec<String> = all.iter().flat_map(Source::test_modules).collect();
    let in_tests =
        |path: &str| tests.iter().any(|test| path == test || test.ends_with('/') && path.starts_with(test));
    all.into_iter().filter(|source| !in_tests(&source.path)).collect()
}

/// Returns every file of the repository but what is built, sorted, from its root.
pub(crate) fn repository_files() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut files, mut directories) = (Vec::new(), vec![PathBuf::from(root)]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("the repository can be listed") {
            let path = entry.expect("the repository can be listed").path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_symlink() || name == ".git" || name == "target" {
                continue;
            }
            if path.is_dir() {
                directories.push(path);
            } else if let Some(path) = path.strip_prefix(root).expect("it is below the root").to_str() {
                files.push(path.to_owned());
            }
        }
    }
    files.sort();
    files
}

fn is_test_gate(line: &str) -> bool {
    line.trim() == "#[cfg(test)]"
}

/// Cuts a comment off; a `//` inside of a text, as in an address, stays.
fn without_comment(line: &str) -> &str {
    if line.trim_start().starts_with("//") {
        return "";
    }
    line.find(" // ").map_or(line, |at| &line[..=at])
}
