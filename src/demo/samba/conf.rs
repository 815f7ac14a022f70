//! The configuration of the private `smbd` and its client: every path inside one directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What `smbd` wants to write to, each a directory of its own.
const DIRECTORIES: [(&str, &str); 6] = [
    ("private", "private dir"),
    ("state", "state directory"),
    ("cache", "cache directory"),
    ("lock", "lock directory"),
    ("pid", "pid directory"),
    ("ncalrpc", "ncalrpc dir"),
];

/// Returns where the configuration is.
pub(super) fn file(directory: &Path) -> PathBuf {
    directory.join("smb.conf")
}

/// Makes the directories and the configuration.
pub(super) fn write(directory: &Path, port: u16, account: &str) -> io::Result<()> {
    for (name, _) in DIRECTORIES {
        fs::create_dir(directory.join(name))?;
    }
    fs::create_dir(directory.join("share"))?;
    fs::write(file(directory), text(directory, port, account))
}

fn text(directory: &Path, port: u16, account: &str) -> String {
    let at = directory.display();
    let directories: String =
        DIRECTORIES.iter().map(|(name, option)| format!("  {option} = {at}/{name}\n")).collect();
    format!(
        "[global]\n\
         {directories}\
         \x20 log file = {at}/log.smbd\n\
         \x20 passdb backend = tdbsam:{at}/private/passdb.tdb\n\
         \x20 server role = standalone server\n\
         \x20 netbios name = WANIGAN-DEMO\n\
         \x20 disable netbios = yes\n\
         \x20 interfaces = lo\n\
         \x20 bind interfaces only = yes\n\
         \x20 smb ports = {port}\n\
         \x20 guest account = {account}\n\
         \x20 map to guest = never\n\
         \x20 server signing = mandatory\n\
         \x20 server min protocol = SMB3_11\n\
         \x20 client signing = required\n\
         \x20 client min protocol = SMB3_11\n\
         \x20 client max protocol = SMB3_11\n\
         \x20 usershare max shares = 0\n\
         \x20 load printers = no\n\
         \x20 printcap name = /dev/null\n\
         \x20 disable spoolss = yes\n\
         [{share}]\n\
         \x20 path = {at}/share\n\
         \x20 valid users = {account}\n\
         \x20 read only = yes\n",
        share = super::SHARE,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_of_the_configuration_is_inside_its_directory() {
        let text = text(Path::new("/tmp/d"), 4450, "nobody");
        for value in text.lines().filter_map(|line| line.split_once("= ")).map(|(_, value)| value) {
            let path = value.trim_start_matches("tdbsam:");
            assert!(!path.starts_with('/') || path.starts_with("/tmp/d/") || path == "/dev/null", "{value}");
        }
    }
}
