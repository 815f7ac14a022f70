//! `wanigan rotate-secret`: a new server secret for a core, and what the operator has to know of it.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;

use crate::config::{Config, Proofs};
use crate::server_secret::{self, Coarse, KeyName, RotateError};

#[derive(Debug, Args)]
pub(super) struct Rotate {
    /// The configuration of the core.
    #[arg(short, long = "config", value_name = "FILE", default_value = super::CONFIG_FILE)]
    config: PathBuf,
    /// Rotate even if the secret before this one is still in its grace: what it named is fetched anew.
    #[arg(long)]
    force: bool,
}

pub(super) fn rotate(command: &Rotate, out: &mut dyn Write) -> anyhow::Result<()> {
    let config = Config::load(&command.config)?;
    let Some(core) = &config.core else {
        bail!("rotate the server secret: this node is no core, and no other has one");
    };
    if core.proofs == Proofs::Plain {
        bail!("rotate the server secret: with core.proofs = \"plain\" there is none");
    }
    let (dir, grace) = (&config.node.state_dir, core.secret_grace);
    let rotated = server_secret::rotate(dir, grace, command.force);
    let rotated = match rotated {
        Err(error @ RotateError::InGrace { .. }) => return Err(error).context("rotate without --force"),
        rotated => rotated?,
    };
    let (current, previous) = (KeyName(rotated.current), KeyName(rotated.previous));
    writeln!(
        out,
        "the server secret is {current}; blocks named under {previous} stay good for {}",
        Coarse(grace)
    )?;
    if let Some((lost, left)) = rotated.lost {
        let (lost, left) = (KeyName(lost), Coarse(left));
        writeln!(out, "lost: {lost}, which had {left} of its grace left; what it named is fetched anew")?;
    }
    writeln!(out, "a core that runs uses it within seconds")?;
    let file = |name: &str| dir.join(name).display().to_string();
    let (first, second) = (file("server-secret.previous"), file("server-secret"));
    writeln!(out, "if other cores share it, copy to them, with mode and time, first {first}, then {second}")?;
    Ok(())
}
