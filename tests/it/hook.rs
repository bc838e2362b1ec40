//! Plain ssh, scp, sftp, rsync and git through the hook, by the built binary.

use crate::world::World;

#[test]
fn every_ordinary_tool_works_and_four_at_once_cause_one_issue() {
    let world = World::start();
    world.granted("30m");
    let four: Vec<_> = (0..4).map(|_| world.command("alice", "$SSH web-07 true").spawn().unwrap()).collect();
    for mut child in four {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(world.count("credential.issued"), 1);
    world.run("alice", "$SSH web-07 'echo $SSH_CONNECTION'").ok();
    world.run("alice", "echo one > a && scp -q -F .ssh/config a web-07:$HOME/b && cmp a b").ok();
    world.run("alice", "echo \"get $HOME/b c\" | sftp -q -F .ssh/config -b - web-07 && cmp a c").ok();
    world.run("alice", "mkdir -p d && echo two > d/x && rsync -e \"$SSH\" -a d/ web-07:$HOME/e/ && cmp d/x e/x").ok();
    let git = "git init -q --bare r.git && git clone -q ssh://web-07$HOME/r.git w && cd w && \
        git -c user.name=a -c user.email=a@b commit -q --allow-empty -m one && git push -q origin HEAD:main && \
        git -C ../r.git log --format=%s main";
    assert_eq!(world.run("alice", git).ok(), "one\n");
    assert_eq!(world.count("credential.issued"), 1, "the certificate was used again");
}

#[test]
fn without_a_grant_the_command_to_type_is_named_and_other_hosts_are_untouched() {
    let world = World::start();
    let done = world.run("alice", "$SSH -o BatchMode=yes web-07 true");
    assert_eq!(done.code, Some(255));
    assert!(done.err.contains("next: jit-broker login web-07 --role deploy\n"), "{}", done.err);
    let before = world.run("alice", "ssh -F none -G unrelated.example").ok();
    let with = world.run("alice", "$SSH -G unrelated.example").ok();
    assert_eq!(before, with);
    // `ssh -G` of our own host prints, and asks for nothing.
    world.run("alice", "$SSH -G web-07").ok();
    assert_eq!(world.count("request.submitted"), 0);
    // Odd names never get as far as a path or a request.
    for odd in ["'web-07;id' root", "../x root", "web-07 '$(id)'", "web-07 -oX"] {
        let done = world.run("alice", &format!("jit-broker hook ssh -- {odd}"));
        assert_eq!(done.code, Some(2), "{odd}: {}", done.err);
    }
}

#[test]
fn install_and_remove_leave_the_rest_of_the_file_alone() {
    let world = World::start();
    let own = "Host other\n  User me\n";
    std::fs::write(world.dir.join("alice/.ssh/config"), own).unwrap();
    for _ in 0..2 {
        world.run("alice", "jit-broker ssh-config --install").ok();
        let text = std::fs::read_to_string(world.dir.join("alice/.ssh/config")).unwrap();
        assert_eq!(text.lines().filter(|l| l.starts_with("Include")).count(), 1);
        assert!(text.ends_with(own));
    }
    world.run("alice", "jit-broker ssh-config --remove").ok();
    assert_eq!(std::fs::read_to_string(world.dir.join("alice/.ssh/config")).unwrap(), own);
}

#[test]
fn release_ends_it_and_the_kept_certificate_is_refused() {
    for (world, wanted) in
        [(World::direct(), ["krl", "host", "session"].as_slice()), (World::start(), &["gateway", "session"])]
    {
        released(&world, wanted);
    }
}

fn released(world: &World, wanted: &[&str]) {
    world.granted("30m");
    world.run("alice", "$SSH web-07 true && cp jit/run/ssh/web-07/*-cert.pub kept-cert.pub").ok();
    let grants = world.run("alice", "jit-broker -o json release --all").json();
    assert_eq!((&grants["state"], &grants["left_s"]), (&"released".into(), &0.into()));
    let proofs: Vec<&str> = grants["proofs"].as_array().unwrap().iter().map(|p| p["what"].as_str().unwrap()).collect();
    assert_eq!(proofs, wanted);
    let kept = "ssh -F jit/config/ssh_config -i jit/run/ssh/web-07/key -o CertificateFile=kept-cert.pub -o BatchMode=yes web-07 true";
    let done = world.run("alice", kept);
    assert_eq!(done.code, Some(255), "{}", done.err);
    assert!(done.err.contains("Permission denied"), "{}", done.err);
}

#[test]
fn after_a_revocation_the_hook_says_so_and_a_new_grant_opens_the_host_again() {
    let world = World::start();
    let grant = world.granted("30m");
    world.run("alice", "$SSH web-07 true").ok();
    world.run("bob", &format!("jit-broker revoke {grant} --reason 'enough of that'")).ok();
    // The broker was asked a moment ago; age that answer instead of waiting for it to age.
    let mark = world.run("alice", "echo jit/run/ssh/web-07/*.checked").ok();
    world.run("alice", &format!("touch -d '1 minute ago' {mark}")).ok();
    let done = world.run("alice", "$SSH -o BatchMode=yes web-07 true");
    assert!(done.err.contains("is revoked; its certificate is removed"), "{}", done.err);
    assert!(done.err.contains("next: jit-broker login web-07"), "{}", done.err);
    world.granted("20m");
    world.run("alice", "$SSH web-07 true").ok();
}

#[test]
fn a_broker_that_is_away_keeps_nobody_from_using_a_certificate_that_holds() {
    let world = World::start();
    world.granted("30m");
    world.run("alice", "$SSH web-07 true").ok();
    world.run("alice", "touch -d '1 minute ago' jit/run/ssh/web-07/*.checked").ok();
    world
        .run("alice", "sed -i 's#\"server\": \"[^\"]*\"#\"server\": \"https://127.0.0.1:1\"#' jit/config/context.json")
        .ok();
    world.run("alice", "$SSH web-07 true").ok();
}
