//! What a scenario found, for people: a table in Markdown, lines below it, and targets that were met or not.

/// A scenario's outcome.
#[derive(Debug)]
pub(crate) struct Report {
    /// What the table is about: files and sizes among it.
    about: String,
    heads: &'static [&'static str],
    rows: Vec<Vec<String>>,
    notes: Vec<String>,
    targets: Vec<Target>,
}

/// Something aimed at.
#[derive(Debug)]
pub(crate) struct Target {
    /// Whether it was reached.
    pub(crate) met: bool,
    /// What it is, and what was measured.
    pub(crate) what: String,
}

impl Report {
    /// Returns one without rows, whose table has these columns.
    pub(crate) fn new(about: impl Into<String>, heads: &'static [&'static str]) -> Self {
        Self { about: about.into(), heads, rows: Vec::new(), notes: Vec::new(), targets: Vec::new() }
    }

    /// Adds a row; what it has fewer cells than columns stays empty.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Adds a line below the table.
    pub(crate) fn note(&mut self, line: impl Into<String>) {
        self.notes.push(line.into());
    }

    /// Adds a target.
    pub(crate) fn target(&mut self, met: bool, what: impl Into<String>) {
        self.targets.push(Target { met, what: what.into() });
    }

    /// Adds the target that a figure is at most so much; `what` says what it is of, and its unit.
    pub(crate) fn at_most(&mut self, limit: f64, figure: f64, what: &str) {
        self.target(figure <= limit, format!("{what}: {figure:.4}, at most {limit}"));
    }

    /// Prints the table and what is below, and gives the targets back.
    pub(crate) fn print(self) -> Vec<Target> {
        println!("\n{}\n", self.about);
        println!("| {} |", self.heads.join(" | "));
        println!("|{}", "---|".repeat(self.heads.len()));
        for mut cells in self.rows {
            cells.resize(self.heads.len(), String::new());
            println!("| {} |", cells.join(" | "));
        }
        for note in self.notes {
            println!("\n{note}");
        }
        self.targets
    }
}
