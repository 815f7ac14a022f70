//! `wanigan pki`: an authority and its nodes' certificates.

use std::io::Write;
use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use crate::pki::{Authority, NodeName, Roles, SiteName};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make an authority: ca.pem for every node, and ca.key to be kept safe.
    Init {
        /// Where the files go.
        #[arg(long)]
        dir: PathBuf,
    },
    /// Issue a node its certificate: NAME.pem and NAME.key.
    Issue {
        /// The node's name: a-z, 0-9, '.' and '-'.
        name: NodeName,
        /// Where the authority is and the files go.
        #[arg(long)]
        dir: PathBuf,
        /// What the node may be.
        #[arg(long, value_enum, default_value_t = Role::Edge)]
        role: Role,
        /// The branch it is in; without it, a site of its own.
        #[arg(long)]
        site: Option<SiteName>,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Role {
    /// In a branch.
    Edge,
    /// Near the servers.
    Core,
    /// An edge and a core.
    Both,
}

impl From<Role> for Roles {
    fn from(role: Role) -> Self {
        match role {
            Role::Edge => Self::EDGE,
            Role::Core => Self::CORE,
            Role::Both => Self::BOTH,
        }
    }
}

pub(super) fn execute(command: Command, out: &mut dyn Write) -> anyhow::Result<()> {
    match command {
        Command::Init { dir } => {
            let issued = Authority::at(&dir).init()?;
            writeln!(out, "{}: give it to every node (node.ca)", issued.certificate.display())?;
            writeln!(out, "{}: keep it safe, whoever has it can make nodes", issued.key.display())?;
        }
        Command::Issue { name, dir, role, site } => {
            let site = site.unwrap_or_else(|| SiteName::from(&name));
            let roles = Roles::from(role);
            let issued = Authority::at(&dir).issue(&name, &site, roles)?;
            writeln!(out, "{}: {name} of {site}, {roles} (node.certificate)", issued.certificate.display())?;
            writeln!(out, "{}: its key (node.key)", issued.key.display())?;
        }
    }
    Ok(())
}
