#![allow(clippy::unwrap_used)]

use std::os::unix::fs::symlink;

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn files_and_folders_are_closed_to_others() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a/b/secret");
    write_private(&file, b"one").unwrap();
    assert_eq!((mode(&file), mode(&dir.path().join("a/b")), mode(&dir.path().join("a"))), (0o600, 0o700, 0o700));
    write_private(&file, b"two").unwrap();
    assert_eq!(read_private(&file).unwrap().as_deref(), Some("two"));
    let names: Vec<_> = fs::read_dir(dir.path().join("a/b")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["secret"], "no temporary file is left");
}

#[test]
fn what_others_can_reach_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f/secret");
    write_private(&file, b"x").unwrap();
    for open in [0o640, 0o604, 0o620, 0o602] {
        fs::set_permissions(&file, fs::Permissions::from_mode(open)).unwrap();
        assert_eq!(read_private(&file).unwrap_err().0.code, Code::UNSAFE_FILE, "{open:o}");
    }
    for open in [0o750, 0o705, 0o711] {
        fs::set_permissions(dir.path().join("f"), fs::Permissions::from_mode(open)).unwrap();
        assert_eq!(write_private(&file, b"y").unwrap_err().0.code, Code::UNSAFE_FILE, "{open:o}");
    }
    assert_eq!(read_private(&dir.path().join("absent")).unwrap(), None);
}

#[test]
fn a_link_is_replaced_and_not_written_through() {
    let dir = tempfile::tempdir().unwrap();
    let (elsewhere, folder) = (dir.path().join("elsewhere"), dir.path().join("f"));
    fs::write(&elsewhere, "theirs").unwrap();
    private_folder(&folder).unwrap();
    symlink(&elsewhere, folder.join("secret")).unwrap();
    write_private(&folder.join("secret"), b"ours").unwrap();
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "theirs");
    assert!(!fs::symlink_metadata(folder.join("secret")).unwrap().is_symlink());
}

#[test]
fn contexts_share_nothing_and_their_names_stay_inside() {
    let home = Home { config: "/c".into(), state: "/s".into(), run: "/r".into() };
    let named = home.of_context("prod");
    for (whole, below) in [(&home.config, &named.config), (&home.state, &named.state), (&home.run, &named.run)] {
        assert!(below.starts_with(whole) && below.ends_with("context/prod"));
    }
    for bad in ["..", "../x", "a/b", "", "/x", ".hidden"] {
        assert_eq!(choose(bad).unwrap_err().0.code, Code::BAD_NAME, "{bad:?}");
    }
}

#[test]
fn writers_at_the_same_time_never_mix() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f/secret");
    std::thread::scope(|scope| {
        for byte in b'a'..=b'f' {
            let file = &file;
            scope.spawn(move || (0..20).for_each(|_| write_private(file, &[byte; 4096]).unwrap()));
        }
    });
    let text = read_private(&file).unwrap().unwrap();
    assert_eq!(text.len(), 4096);
    assert!(text.bytes().all(|b| b == text.as_bytes()[0]));
}
