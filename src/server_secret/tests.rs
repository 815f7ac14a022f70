//! Rotations, what a crash or a half-made copy leaves, and what a running core makes of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use bytes::Bytes;

use super::*;

const DAY: Duration = Duration::from_secs(86_400);
const GRACE: Duration = Duration::from_secs(7 * 86_400);

#[test]
fn a_rotation_keeps_the_secret_before_it_for_the_grace() {
    let (dir, first) = core();
    let rotated = rotate(dir.path(), GRACE, false).unwrap();
    assert_eq!((rotated.previous, rotated.lost), (first, None));
    assert_ne!(rotated.current, first);
    let secrets = ServerSecrets::load(dir.path(), GRACE).unwrap().current();
    assert_eq!(secrets.current.id(), rotated.current);
    let (previous, left) = secrets.previous.clone().unwrap();
    assert_eq!(previous.id(), first);
    assert!(left <= GRACE && left > GRACE - DAY, "{left:?}");
    assert_eq!(secrets.find(first).unwrap().id(), first);
    assert!(secrets.find(KeyId([9; 8])).is_none());
    for name in ["server-secret", "server-secret.previous"] {
        let mode = fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600, "{name}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "no temporary file stays");
}

#[test]
fn blocks_named_before_and_after_a_restart_have_the_same_names() {
    let (dir, _) = core();
    let name = |secret: &ServerSecret| *secret.mint(Bytes::from_static(b"content")).reference();
    let before = name(&ServerSecrets::load(dir.path(), GRACE).unwrap().current().current);
    rotate(dir.path(), GRACE, false).unwrap();
    let secrets = ServerSecrets::load(dir.path(), GRACE).unwrap().current();
    assert_eq!(name(secrets.find(before.key).unwrap()), before);
    assert_ne!(name(&secrets.current).secret, before.secret);
}

#[test]
fn the_grace_ends_by_the_time_of_the_file() {
    let (dir, first) = core();
    rotate(dir.path(), GRACE, false).unwrap();
    age_previous(dir.path(), 6 * DAY);
    let (_, left) = ServerSecrets::load(dir.path(), GRACE).unwrap().current().previous.unwrap();
    assert!(left <= DAY && left > DAY / 2, "{left:?}");
    let refused = rotate(dir.path(), GRACE, false).unwrap_err();
    assert!(matches!(refused, RotateError::InGrace { previous, .. } if previous == first), "{refused}");
    assert!(refused.to_string().contains("stay good for another 23 h 59 min"), "{refused}");
    age_previous(dir.path(), 7 * DAY);
    assert!(ServerSecrets::load(dir.path(), GRACE).unwrap().current().previous.is_none());
    rotate(dir.path(), GRACE, false).unwrap();
    let none = ServerSecrets::load(dir.path(), Duration::ZERO).unwrap();
    assert!(none.current().previous.is_none(), "a grace of nothing has no previous secret");
}

#[test]
fn a_previous_secret_from_the_future_is_good_for_the_whole_grace_and_no_longer() {
    let (dir, first) = core();
    rotate(dir.path(), GRACE, false).unwrap();
    File::open(dir.path().join("server-secret.previous")).unwrap().set_modified(now() + 30 * DAY).unwrap();
    let (previous, left) = ServerSecrets::load(dir.path(), GRACE).unwrap().current().previous.unwrap();
    assert_eq!((previous.id(), left), (first, GRACE));
}

#[test]
fn a_rotation_within_the_grace_is_refused_unless_forced_and_says_what_is_lost() {
    let (dir, first) = core();
    let second = rotate(dir.path(), GRACE, false).unwrap().current;
    let before = bytes(dir.path());
    assert!(matches!(rotate(dir.path(), GRACE, false), Err(RotateError::InGrace { .. })));
    assert_eq!(bytes(dir.path()), before, "a refused rotation changes nothing");
    let forced = rotate(dir.path(), GRACE, true).unwrap();
    assert_eq!(forced.previous, second);
    assert_eq!(forced.lost.unwrap().0, first);
}

#[test]
fn after_a_crash_at_any_step_there_is_a_current_secret_and_a_rotation_goes_through() {
    for steps in 0..=2 {
        let (dir, first) = core();
        let (files, new) = (Files::of(dir.path()), [7; SECRET_BYTES]);
        let old = files.read().unwrap();
        if steps >= 1 {
            files.keep_as_previous(&old).unwrap();
        }
        if steps >= 2 {
            files.replace_current(&new).unwrap();
        }
        let secrets = ServerSecrets::load(dir.path(), GRACE).unwrap().current();
        if steps < 2 {
            assert_eq!((secrets.current.id(), secrets.previous.is_none()), (first, true), "{steps}");
            let rotated = rotate(dir.path(), GRACE, false).unwrap();
            assert_eq!((rotated.previous, rotated.lost), (first, None), "{steps}");
        } else {
            assert_eq!(secrets.current.id(), ServerSecret::new(new).id());
            assert_eq!(secrets.previous.unwrap().0.id(), first);
        }
    }
}

#[test]
fn nothing_is_rotated_before_there_is_a_secret_or_while_another_rotation_is_at_work() {
    let dir = tempfile::tempdir().unwrap();
    let error = rotate(dir.path(), GRACE, true).unwrap_err();
    assert!(error.to_string().ends_with("/server-secret"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let (dir, _) = core();
    let _other = lock(dir.path()).unwrap();
    assert!(matches!(rotate(dir.path(), GRACE, true), Err(RotateError::Busy(_))));
}

#[test]
fn a_bad_file_is_refused_at_the_start_and_left_alone() {
    let chmod = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for (name, mode, len) in [
        ("server-secret", 0o640, SECRET_BYTES),
        ("server-secret.previous", 0o604, SECRET_BYTES),
        ("server-secret.previous", 0o600, SECRET_BYTES + 1),
    ] {
        let (dir, _) = core();
        rotate(dir.path(), GRACE, false).unwrap();
        fs::write(dir.path().join(name), vec![1; len]).unwrap();
        chmod(&dir.path().join(name), mode);
        let before = bytes(dir.path());
        let error = ServerSecrets::load(dir.path(), GRACE).unwrap_err();
        assert!(error.to_string().contains(&format!("/{name}: ")), "{error}");
        assert!(matches!(rotate(dir.path(), GRACE, true), Err(RotateError::File(_))));
        assert_eq!(bytes(dir.path()), before);
    }
}

#[test]
fn cores_with_copies_of_the_files_have_the_same_secrets() {
    let (one, first) = core();
    let second = rotate(one.path(), GRACE, false).unwrap().current;
    let other = tempfile::tempdir().unwrap();
    copy(one.path(), other.path(), "server-secret.previous");
    copy(one.path(), other.path(), "server-secret");
    let secrets = ServerSecrets::load(other.path(), GRACE).unwrap().current();
    assert_eq!((secrets.current.id(), secrets.previous.unwrap().0.id()), (second, first));
    let (alone, _) = core();
    assert!(ServerSecrets::load(alone.path(), GRACE).unwrap().current().find(second).is_none());
}

#[tokio::test]
async fn a_running_core_notices_a_rotation_here_and_a_copy_from_elsewhere() {
    let (one, first) = core();
    let other = tempfile::tempdir().unwrap();
    copy(one.path(), other.path(), "server-secret");
    let (here, mut changes_here) = watching(one.path());
    let (there, mut changes_there) = watching(other.path());
    assert_eq!(there.current().current.id(), first);
    let second = rotate(one.path(), GRACE, false).unwrap().current;
    let told = changes_here.changed().await;
    assert_eq!((told.current.id(), told.previous.unwrap().0.id()), (second, first));
    copy(one.path(), other.path(), "server-secret.previous");
    copy(one.path(), other.path(), "server-secret");
    let told = changes_there.changed().await;
    assert_eq!((told.current.id(), told.previous.unwrap().0.id()), (second, first));
    assert_eq!(here.current().current.id(), there.current().current.id());
}

#[tokio::test]
async fn the_end_of_the_grace_is_a_change() {
    let (dir, first) = core();
    rotate(dir.path(), GRACE, false).unwrap();
    let (secrets, mut changes) = watching(dir.path());
    assert!(secrets.current().find(first).is_some());
    age_previous(dir.path(), GRACE);
    assert!(changes.changed().await.previous.is_none());
    assert!(secrets.current().find(first).is_none());
}

#[tokio::test]
async fn a_bad_file_while_running_keeps_what_is_in_use_until_it_is_good_again() {
    let (dir, first) = core();
    let (secrets, mut changes) = watching(dir.path());
    let path = dir.path().join("server-secret");
    fs::write(&path, b"short").unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(100), changes.changed()).await.is_err());
    fs::remove_file(&path).unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(100), changes.changed()).await.is_err());
    assert_eq!(secrets.current().current.id(), first);
    secret_file::write_new(&path, 0o600, &[5; SECRET_BYTES]).unwrap();
    assert_eq!(changes.changed().await.current.id(), ServerSecret::new([5; SECRET_BYTES]).id());
}

#[test]
fn a_bad_file_is_warned_of_once_and_only_if_it_stays_bad() {
    let (mut watcher, found) = (Watcher::default(), found(1, None));
    let bad = || Err(SecretFileError::Malformed { path: "server-secret".into(), expected: SECRET_BYTES });
    let mut warned = |read| matches!(watcher.handle_read(&found, read), Step::Warn(_));
    let reads = [bad(), Ok(found.clone()), bad(), bad(), bad(), bad(), Ok(found.clone()), bad(), bad()];
    let warnings: Vec<bool> = reads.into_iter().map(&mut warned).collect();
    assert_eq!(warnings, [false, false, false, true, false, false, false, false, true]);
}

#[test]
fn a_secret_in_use_is_not_dropped_for_a_copy_that_is_half_made() {
    let mut watcher = Watcher::default();
    let in_use = found(1, None);
    // The current file came first: without the previous one, blocks named under 1 would be good for nothing.
    assert!(matches!(watcher.handle_read(&in_use, Ok(found(2, None))), Step::Keep));
    assert!(matches!(watcher.handle_read(&in_use, Ok(found(2, Some(1)))), Step::Take(_)));
    // It is meant so if it stays so.
    assert!(matches!(watcher.handle_read(&in_use, Ok(found(2, None))), Step::Keep));
    assert!(matches!(watcher.handle_read(&in_use, Ok(found(2, None))), Step::Take(_)));
    // Each of two in a row is looked at twice.
    assert!(matches!(watcher.handle_read(&in_use, Ok(found(2, None))), Step::Keep));
    assert!(matches!(watcher.handle_read(&in_use, Ok(found(3, None))), Step::Keep));
    assert!(matches!(watcher.handle_read(&in_use, Ok(found(3, None))), Step::Take(_)));
}

#[test]
fn durations_are_told_coarsely() {
    for (seconds, text) in [
        (0, "0 s"),
        (59, "59 s"),
        (3_599, "59 min"),
        (3_600, "1 h"),
        (86_399, "23 h 59 min"),
        (604_799, "6 d 23 h"),
        (604_800, "7 d"),
    ] {
        assert_eq!(Coarse(Duration::from_secs(seconds)).to_string(), text);
    }
}

/// The state directory of a core that has started once, and the name of its secret.
fn core() -> (tempfile::TempDir, KeyId) {
    let dir = tempfile::tempdir().unwrap();
    let secrets = ServerSecrets::load(dir.path(), GRACE).unwrap().current();
    assert!(secrets.previous.is_none());
    (dir, secrets.current.id())
}

fn watching(dir: &Path) -> (ServerSecrets, Changes) {
    let secrets = ServerSecrets::load(dir, GRACE).unwrap();
    let changes = secrets.changes();
    tokio::spawn(secrets.clone().watch_every(Duration::from_millis(5)));
    (secrets, changes)
}

fn age_previous(dir: &Path, age: Duration) {
    File::open(dir.join("server-secret.previous")).unwrap().set_modified(now() - age).unwrap();
}

/// Copies as `cp -p` does: over what is there, and with its time.
fn copy(from: &Path, to: &Path, name: &str) {
    fs::copy(from.join(name), to.join(name)).unwrap();
    let time = fs::metadata(from.join(name)).unwrap().modified().unwrap();
    File::open(to.join(name)).unwrap().set_modified(time).unwrap();
}

fn bytes(dir: &Path) -> Vec<Vec<u8>> {
    let Files { current, previous } = Files::of(dir);
    [current, previous].iter().map(|path| fs::read(path).unwrap()).collect()
}

fn found(current: u8, previous: Option<u8>) -> Found {
    let secret = |byte| ServerSecret::new([byte; SECRET_BYTES]);
    Found { current: secret(current), previous: previous.map(|byte| (secret(byte), SystemTime::UNIX_EPOCH)) }
}
