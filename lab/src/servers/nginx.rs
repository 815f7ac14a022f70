//! A private nginx in the head office: the same files plain, chunked and compressed on the fly.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::process::Process;
use crate::servers::serve;
use crate::topology::{Lab, SERVER_V4, SERVER_V6};

/// A running nginx.
///
/// `/NAME` answers a file with Content-Length and ranges, `/chunked/NAME` the same bytes with chunked transfer coding (they
/// pass nginx's SSI filter, so it cannot know the length before), `/gzip/NAME` chunked and, for clients that accept it, with
/// content coding gzip.
#[derive(Debug)]
pub struct Nginx {
    files: PathBuf,
    _process: Process,
}

impl Nginx {
    /// A port of its own that no edge intercepts: what is read there crosses the WAN as it does without Wanigan.
    pub const DIRECT_PORT: u16 = 8080;

    /// Starts the server and waits until it listens.
    ///
    /// # Errors
    /// If it does not.
    pub fn start(lab: &Lab) -> Result<Self> {
        let home = lab.path("nginx");
        let files = home.join("files");
        std::fs::create_dir_all(&files).context("make nginx's directories")?;
        let configuration = home.join("nginx.conf");
        std::fs::write(&configuration, configuration_text(&home)).context("write nginx.conf")?;
        let mut command = lab.server().command("nginx");
        command.arg("-e").arg(home.join("error.log")).arg("-c").arg(&configuration).arg("-p").arg(&home);
        let addresses = [SocketAddr::from((SERVER_V4, PORT)), SocketAddr::from((SERVER_V6, PORT))];
        let process = serve(lab, "nginx", &mut command, &addresses)?;
        Ok(Self { files, _process: process })
    }

    /// Returns the directory that is served.
    #[must_use]
    pub fn files(&self) -> &Path {
        &self.files
    }
}

fn configuration_text(home: &Path) -> String {
    let home = home.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|name| format!("  {name}_temp_path {home}/{name};\n"))
        .collect();
    format!(
        "daemon off;\n\
         master_process off;\n\
         user root;\n\
         pid {home}/nginx.pid;\n\
         error_log {home}/error.log;\n\
         events {{ worker_connections 2048; }}\n\
         http {{\n{temporary}\
         \x20 access_log off;\n\
         \x20 default_type application/octet-stream;\n\
         \x20 sendfile on;\n\
         \x20 keepalive_requests 100000;\n\
         \x20 server {{\n\
         \x20   listen {PORT} backlog=1024;\n\
         \x20   listen [::]:{PORT} backlog=1024;\n\
         \x20   listen {} backlog=1024;\n\
         \x20   root {home}/files;\n\
         \x20   location /chunked/ {{ alias {home}/files/; ssi on; ssi_types application/octet-stream; }}\n\
         \x20   location /gzip/ {{ alias {home}/files/; gzip on; gzip_types application/octet-stream; gzip_min_length 1; }}\n\
         \x20 }}\n\
         }}\n",
        Nginx::DIRECT_PORT
    )
}

const PORT: u16 = 80;
