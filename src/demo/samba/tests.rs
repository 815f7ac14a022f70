//! Real Samba, where it is installed. Where it is not, the tests that need it say so and check that alone.

use super::*;

#[tokio::test]
async fn a_file_comes_over_smb_with_its_hash_and_as_it_is_after_a_change() {
    let Some(samba) = start() else { return };
    let mut content: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251).to_le_bytes()[0]).collect();
    for _ in 0..2 {
        content[1_234_567] ^= 0xff;
        fs::write(samba.share().join("file one.bin"), &content).unwrap();
        let fetched = samba.fetch(samba.address(), "file one.bin").await.unwrap();
        assert_eq!(fetched.bytes, 3_000_000);
        assert_eq!(fetched.sha256[..], Sha256::digest(&content)[..]);
    }
}

#[tokio::test]
async fn a_file_that_is_not_there_is_an_error_in_the_clients_words() {
    let Some(samba) = start() else { return };
    let error = samba.fetch(samba.address(), "nothing").await.unwrap_err();
    assert!(error.to_string().contains("NT_STATUS_OBJECT_NAME_NOT_FOUND"), "{error}");
}

#[test]
fn nothing_is_left_when_it_is_dropped() {
    let Some(samba) = start() else { return };
    let (address, directory) = (samba.address(), samba.directory.path().to_owned());
    drop(samba);
    assert!(std::net::TcpStream::connect(address).is_err());
    assert!(!directory.exists());
}

#[test]
fn programs_that_are_not_installed_are_named() {
    let error = Programs::find_in(&[PathBuf::from("/nonexistent")]).unwrap_err();
    assert!(matches!(&error, SambaError::Missing(names) if names.len() == 3));
    assert!(error.to_string().contains("smbd, pdbedit, smbclient"), "{error}");
}

/// Starts Samba, or says why the test has nothing to test.
fn start() -> Option<Samba> {
    match Samba::start() {
        Ok(samba) => Some(samba),
        Err(error @ SambaError::Missing(_)) => {
            println!("skipped: failed to {error}");
            None
        }
        Err(error) => panic!("failed to {error}: {:?}", std::error::Error::source(&error)),
    }
}
