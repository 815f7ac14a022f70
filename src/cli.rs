//! The command line: what the operator types, what is printed, and with which code the process ends.
//!
//! Exit codes: 0, 64 for a usage or configuration that cannot be (sysexits.h: EX_USAGE), 1 for any other failure.
//! Errors of the modules below come here as they are and are printed with their causes.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::config::{Config, ConfigError};
use crate::demo;
use crate::node::{self, Signals};

mod check;
mod peers;
mod pki;
mod secret;

/// A transparent SMB and HTTP proxy that lets a branch office fetch each block of a file over the WAN once.
#[derive(Debug, Parser)]
#[command(name = "wanigan", version, max_term_width = 100)]
struct Cli {
    /// What to log: error, warn, info, debug or trace (default: WANIGAN_LOG, or else info, warn for the demo).
    ///
    /// A filter such as "info,wanigan::store=debug" does as well. The log goes to standard error.
    #[arg(long, global = true, value_name = "LEVEL")]
    log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node: an edge, a core, or both, as the configuration says.
    Run(ConfigFile),
    /// Tell every mistake in a configuration and print what will be used.
    Check(ConfigFile),
    /// List the peers of the edge that runs here, and what they gave and took.
    Peers(peers::Peers),
    /// Make a new server secret for a core, and keep the one before it for its grace.
    ///
    /// A core that runs takes it by itself. Cores that share the secret need a copy of both files.
    RotateSecret(secret::Rotate),
    /// Make an authority and the certificates of nodes.
    #[command(subcommand)]
    Pki(pki::Command),
    /// Show what is saved: a core, two edges, servers, clients and a slow WAN, all on loopback, in a minute.
    ///
    /// It needs no root and no configuration. Real SMB is part of it where Samba is installed.
    Demo,
}

/// The one configuration of a node.
#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration.
    #[arg(short, long = "config", value_name = "FILE", default_value = CONFIG_FILE)]
    config: PathBuf,
}

/// Where the configuration is unless it is named.
const CONFIG_FILE: &str = "/etc/wanigan/wanigan.toml";

/// The exit code for a usage or configuration that cannot be.
const EXIT_USAGE: u8 = 64;

/// How long threads may keep a node that has stopped.
const SHUTDOWN_DEADLINE: std::time::Duration = std::time::Duration::from_secs(2);

/// Runs the command of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too; they go to standard output and are no mistake.
            let code = if error.use_stderr() { EXIT_USAGE } else { 0 };
            return match error.print() {
                Ok(()) => ExitCode::from(code),
                Err(_) => ExitCode::FAILURE,
            };
        }
    };
    // The demo's own text is what there is to read; a node has nothing but its log.
    let default = if matches!(cli.command, Command::Demo) { "warn" } else { "info" };
    let filter = match filter(cli.log, default) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("wanigan: failed to {error:#}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    match execute(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

fn execute(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(file) => run(&file),
        Command::Check(file) => {
            check::check(&Config::load(&file.config)?, &mut io::stdout(), &mut io::stderr())
        }
        Command::Peers(command) => peers::peers(&command, &mut io::stdout()),
        Command::RotateSecret(command) => secret::rotate(&command, &mut io::stdout()),
        Command::Pki(command) => pki::execute(command, &mut io::stdout()),
        Command::Demo => run_demo(),
    }
}

fn run(file: &ConfigFile) -> anyhow::Result<()> {
    let config = Config::load(&file.config)?;
    let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
    runtime.block_on(node::run(config))?;
    // A read that hangs on a disk must not keep the process.
    runtime.shutdown_timeout(SHUTDOWN_DEADLINE);
    Ok(())
}

fn run_demo() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
    runtime.block_on(async {
        let mut signals = Signals::new().context("listen to signals")?;
        let mut out = io::stdout();
        tokio::select! {
            report = demo::run(demo::Settings::default(), &mut out) => report.map(drop)?,
            // What was started goes with the future: a private smbd and temporary directories.
            signal = signals.next() => anyhow::bail!("finish the demo: ended by {signal}"),
        }
        Ok(())
    })
}

fn filter(log: Option<String>, default: &str) -> anyhow::Result<EnvFilter> {
    let (from, text) = match (log, std::env::var("WANIGAN_LOG")) {
        (Some(text), _) => ("--log", text),
        (None, Ok(text)) if !text.is_empty() => ("WANIGAN_LOG", text),
        (None, _) => ("the default", default.to_owned()),
    };
    let why = || format!("read {from}: \"{text}\" is not a level or a filter");
    if text.contains('=') {
        return EnvFilter::try_new(&text).with_context(why);
    }
    // A filter would take a misspelt level for a module's name, and say nothing from then on.
    let level: LevelFilter = text.parse().with_context(why)?;
    Ok(EnvFilter::default().add_directive(level.into()))
}

/// Prints an error with its causes. The errors of a configuration name their file themselves, line by line.
fn report(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref::<ConfigError>() {
        Some(ConfigError::Problems { .. }) => eprintln!("{error}"),
        Some(ConfigError::Read { .. } | ConfigError::Syntax { .. }) | None => {
            eprintln!("wanigan: failed to {error:#}");
        }
    }
    if error.is::<ConfigError>() { ExitCode::from(EXIT_USAGE) } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_level_of_the_command_line_goes_before_the_default() {
        assert_eq!(filter(Some("warn".to_owned()), "info").unwrap().to_string(), "warn");
    }

    #[test]
    fn a_misspelt_level_is_refused() {
        for text in ["inof", "wanigan=loud"] {
            assert!(filter(Some(text.to_owned()), "info").is_err(), "{text}");
        }
        assert!(filter(Some("info,wanigan::store=debug".to_owned()), "info").is_ok());
    }
}
