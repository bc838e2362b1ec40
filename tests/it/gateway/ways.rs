//! The ways in, and the programs that people come with.

use std::io::Write as _;
use std::process::Stdio;

use jit_broker::domain::session::SessionCause;
use jit_broker::record::Stored;

use super::world::{Gw, TARGET};
use crate::world::Done;

#[test]
fn a_certificate_opens_its_target_and_what_passed_is_recorded() {
    let world = Gw::start();
    let pass = world.pass("work", 600);
    let done = world.ssh(&pass, &["echo out; echo err >&2; exit 7"]);
    assert_eq!((done.code, done.out.as_str()), (Some(7), "out\n"), "{done:?}");
    assert!(done.err.contains("err\n"), "{done:?}");
    let (session, end) = world.end(pass.grant);
    assert_eq!(end.cause, SessionCause::Closed);
    assert_eq!((end.bytes_in, end.bytes_out, end.late_ms), (0, 8, None));
    let frames: Vec<_> = world.recorded(session, &end).into_iter().map(|frame| frame.what).collect();
    let has = |wanted: &Stored| assert!(frames.contains(wanted), "{wanted:?} in {frames:?}");
    has(&Stored::Output(b"out\n".to_vec()));
    has(&Stored::Errors(b"err\n".to_vec()));
    assert!(format!("{:?}", frames[0]).contains("exec"), "{frames:?}");
}

#[test]
fn input_output_signals_and_exits_pass_unchanged() {
    let world = Gw::start();
    let pass = world.pass("work", 600);
    // Both ways, with every byte, more than a window.
    let bytes: Vec<u8> = (0..6_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut child = world.client("ssh", Some(&pass)).args(["gateway", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success() && output.stdout == bytes, "{} bytes came back", output.stdout.len());
    // A command that a signal ends: ssh says 255 for it, directly as well.
    let done = world.ssh(&pass, &["kill -TERM $$"]);
    assert_eq!(done.code, Some(255), "{done:?}");
    // A command that ends its output long before it ends.
    let done = world.ssh(&pass, &["exec >&- 2>&-; sleep 0.5; exit 3"]);
    assert_eq!(done.code, Some(3), "{done:?}");
    // A terminal: its size, its name and its echo.
    let done: Done = world
        .client("ssh", Some(&pass))
        .args(["-tt", "gateway", "stty size; echo $TERM; tty; printf 'x\\n'"])
        .env("TERM", "xterm-256color")
        .output()
        .unwrap()
        .into();
    let done = done.ok();
    assert!(done.contains("xterm-256color\r\n/dev/pts/") && done.ends_with("x\r\n"), "{done:?}");
    let mut command = world.client("ssh", Some(&pass));
    command.args(["-o", "SendEnv=LC_TEST LANG", "gateway", "echo $LC_TEST $LANG"]);
    let done: Done = command.env("LC_TEST", "kept").env("LANG", "C.UTF-8").output().unwrap().into();
    assert_eq!(done.ok(), "kept C.UTF-8\n");
    let world_ends = world.ends(pass.grant);
    assert!(
        world_ends
            .iter()
            .all(|(session, end)| { world.store.verify(*session, end.recording.as_ref().unwrap()).is_ok() })
    );
}

#[test]
fn scp_sftp_rsync_and_git_work_and_files_are_told() {
    let world = Gw::start();
    let pass = world.pass("work", 600);
    let dir = world.dir.join("files");
    std::fs::create_dir_all(dir.join("tree/sub")).unwrap();
    let content: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(97) >> 5) as u8).collect();
    std::fs::write(dir.join("up"), &content).unwrap();
    std::fs::write(dir.join("tree/sub/x"), "x").unwrap();
    let at = dir.display();
    let run = |program: &str, arguments: &[String]| -> Done {
        world.client(program, Some(&pass)).args(arguments).output().unwrap().into()
    };
    run("scp", &[format!("{at}/up"), format!("gateway:{at}/down")]).ok();
    assert!(std::fs::read(dir.join("down")).unwrap() == content);
    run("scp", &["-O".to_owned(), format!("gateway:{at}/up"), format!("{at}/legacy")]).ok();
    assert!(std::fs::read(dir.join("legacy")).unwrap() == content);
    super::world::put(
        &dir.join("batch"),
        &format!(
            "get {at}/up {at}/got\nrename {at}/down {at}/moved\nmkdir {at}/made\nsymlink ../../etc {at}/link\nrm {at}/legacy\n"
        ),
    );
    run("sftp", &["-b".to_owned(), format!("{at}/batch"), "gateway".to_owned()]).ok();
    assert!(std::fs::read(dir.join("got")).unwrap() == content && dir.join("moved").exists());
    let shell = format!("ssh -F {}/config -i {}", world.dir.display(), pass.key.display());
    let mut rsync = std::process::Command::new("rsync");
    let done: Done = rsync
        .args(["-a", "-e", &shell, &format!("{at}/tree/"), &format!("gateway:{at}/copy/")])
        .output()
        .unwrap()
        .into();
    done.ok();
    assert_eq!(std::fs::read_to_string(dir.join("copy/sub/x")).unwrap(), "x");
    let git = |arguments: &[&str]| -> Done {
        let mut git = std::process::Command::new("git");
        git.args(arguments).env("GIT_SSH_COMMAND", &shell).output().unwrap().into()
    };
    git(&["init", "-q", "--bare", &format!("{at}/repo.git")]).ok();
    git(&["clone", "-q", &format!("ssh://gateway{at}/repo.git"), &format!("{at}/clone")]).ok();
    let mut told = Vec::new();
    super::world::until(std::time::Duration::from_secs(10), "the ends", || world.ends(pass.grant).len() >= 5);
    for (session, end) in world.ends(pass.grant) {
        told.extend(world.recorded(session, &end).into_iter().filter_map(|frame| match frame.what {
            Stored::FileOp(json) => Some(json),
            _ => None,
        }));
    }
    let told = told.join("\n");
    let sum = data_encoding::HEXLOWER.encode(&<sha2::Sha256 as sha2::Digest>::digest(&content));
    for op in ["upload", "download"] {
        let line = told.lines().find(|line| line.contains(op)).unwrap_or_else(|| panic!("no {op} in {told}"));
        assert!(line.contains(&sum) && line.contains("3000000"), "{line}");
    }
    for op in ["rename", "mkdir", "symlink", "remove"] {
        assert!(told.contains(&format!("\"op\":\"{op}\"")), "{op} in {told}");
    }
}

/// OpenSSH's server does both, and answers both alike: nobody could tell afterwards which of the answers is about which.
#[test]
fn two_requests_of_one_id_do_not_reach_the_server() {
    let world = Gw::start();
    let pass = world.pass("work", 600);
    let paths = ["one", "two"].map(|name| world.dir.join(name));
    paths.iter().for_each(|path| super::world::put(path, "still here"));
    let string = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
    let packet = |kind: u8, id: u32, rest: &[u8]| string(&[&[kind][..], &id.to_be_bytes(), rest].concat());
    let remove = |path: &std::path::Path| packet(13, 7, &string(path.display().to_string().as_bytes()));
    let said = [packet(1, 3, b""), remove(&paths[0]), remove(&paths[1])].concat();
    let mut child = world.client("ssh", Some(&pass));
    let mut child = child.args(["-s", "gateway", "sftp"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), &said).unwrap();
    let done: Done = child.wait_with_output().unwrap().into();
    assert!(done.code == Some(254) && done.err.contains("cannot be recorded"), "{done:?}");
    assert!(paths.iter().all(|path| path.exists()));
    let (session, end) = world.end(pass.grant);
    let told = world.recorded(session, &end).into_iter().filter_map(|frame| match frame.what {
        Stored::FileOp(json) => Some(json),
        _ => None,
    });
    let told: Vec<String> = told.collect();
    assert!(told[0].contains("unreadable") && told[1].contains("/one") && told.len() == 2, "{told:?}");
}

#[test]
fn a_commands_name_hides_nothing_of_it() {
    let world = Gw::start();
    let pass = world.pass("exec", 600);
    for line in ["scp -t /dev/null < /dev/null; echo x y | tr x h", "rsync --server . . < /dev/null; echo x y | tr x h"]
    {
        let done = world.ssh(&pass, &[line]);
        assert!(done.out.ends_with("h y\n"), "{done:?}");
    }
    super::world::until(std::time::Duration::from_secs(10), "the ends", || world.ends(pass.grant).len() == 2);
    for (session, end) in world.ends(pass.grant) {
        let frames = world.recorded(session, &end);
        let mut all = Vec::new();
        for frame in frames {
            match frame.what {
                Stored::Open { what, command: Some(command), .. } => {
                    assert_eq!(what, "exec");
                    assert!(command.ends_with(b"echo x y | tr x h"), "{}", String::from_utf8_lossy(&command));
                }
                Stored::Output(bytes) => all.extend(bytes),
                _ => {}
            }
        }
        assert!(all.ends_with(b"h y\n"), "{}", String::from_utf8_lossy(&all));
    }
}

#[test]
fn the_certificate_of_a_gateways_grant_opens_the_target_itself_to_nobody() {
    let world = Gw::start();
    let pass = world.pass("work", 600);
    let straight = |port: u16| -> Done {
        let mut command = world.client("ssh", Some(&pass));
        let alias = if port == world.port { "HostKeyAlias=jit-gateway" } else { "HostKeyAlias=web-07" };
        command.args(["-o", alias, "-o", "ProxyJump=none", "-o", "HostName=127.0.0.1", "-p", &port.to_string()]);
        command.args(["-l", &world.login, "straight", "echo in"]).output().unwrap().into()
    };
    assert_eq!(straight(world.port).ok(), "in\n");
    let done = straight(world.ssh_port);
    assert!(done.code == Some(255) && done.err.contains("Permission denied"), "{done:?}");
    let log = std::fs::read_to_string(world.dir.join("host/log")).unwrap();
    assert_eq!(log.matches("Accepted publickey").count(), 1, "{log}");
}

#[test]
fn a_hop_leads_to_a_server_in_the_targets_name() {
    let world = Gw::start();
    let pass = world.pass("work", 600);
    let inner = |target: &str, line: &str| -> Done {
        world.client("ssh", Some(&pass)).args([target, line]).output().unwrap().into()
    };
    assert_eq!(inner(TARGET, "echo through").ok(), "through\n");
    assert_eq!(world.end(pass.grant).1.cause, SessionCause::Closed);
    // What is no target is answered as what the person may not know of.
    let to = |host: &str| -> Done {
        let mut command = world.client("ssh", None);
        command.args(["-W", host, "hop"]).output().unwrap().into()
    };
    let (unknown, forbidden) = (to("nothing-here:22"), to("127.0.0.1:22"));
    assert_ne!(unknown.code, Some(0));
    assert!(unknown.err.contains("administratively prohibited"), "{unknown:?}");
    assert_eq!(unknown.err.replace("nothing-here", "127.0.0.1"), forbidden.err);
}

#[test]
fn a_key_alone_enters_by_login_and_target_under_a_grant_and_is_told_what_to_type_without_one() {
    let world = Gw::start();
    let enter = || -> Done {
        let mut command = world.client("ssh", None);
        command.arg("-i").arg(world.dir.join("alice/id_ed25519"));
        command.args(["-l", &format!("{}%{TARGET}", world.login), "gateway", "echo in"]).output().unwrap().into()
    };
    let none = enter();
    assert_eq!(none.code, Some(254), "{none:?}");
    assert!(none.err.contains(&format!("jit-broker request {TARGET}")), "{none:?}");
    let pass = world.pass("work", 600);
    assert_eq!(enter().ok(), "in\n");
    assert_eq!(world.end(pass.grant).1.cause, SessionCause::Closed);
    // Somebody else's key does not enter under it.
    let mut command = world.client("ssh", None);
    command.arg("-i").arg(world.dir.join("bob/id_ed25519"));
    let done: Done =
        command.args(["-l", &format!("{}%{TARGET}", world.login), "gateway", "echo in"]).output().unwrap().into();
    assert_eq!((done.code, done.out.as_str()), (Some(254), ""));
}
