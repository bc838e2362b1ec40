//! Completion in real shells, and the manual pages as man reads them.

use std::process::{Command, Stdio};

use crate::world::World;

/// What bash offers for a line.
fn bash(world: &World, words: &[&str]) -> String {
    let list: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let script = format!(
        "source <(jit-broker completions bash); f=$(complete -p jit-broker | sed 's/.*-F \\([^ ]*\\) .*/\\1/'); \
         COMP_WORDS=(jit-broker {}); COMP_CWORD={}; COMP_TYPE=9; $f jit-broker '' ''; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        list.join(" "),
        words.len()
    );
    world.run("alice", &format!("bash -c \"$(cat <<'EOS'\n{script}\nEOS\n)\"")).ok()
}

#[test]
fn names_and_ids_are_completed_from_what_this_machine_has_seen_without_the_network() {
    let world = World::start();
    let grant = world.granted("30m");
    world.run("alice", "jit-broker ls").ok();
    world.run("alice", "jit-broker status").ok();
    // The broker is away: TAB must not care.
    let context = world.dir.join("alice/jit/config/context.json");
    let text = std::fs::read_to_string(&context).unwrap();
    std::fs::write(&context, text.replace("https://127.0.0.1:", "https://127.0.0.1:1")).unwrap();
    assert!(bash(&world, &["ssh", "we"]).contains("web-07"));
    assert!(bash(&world, &["login", ""]).contains("db-prod"));
    assert!(bash(&world, &["login", "web-07", "--role", "d"]).contains("deploy"));
    assert!(bash(&world, &["release", "gr_"]).contains(&grant));
    assert!(bash(&world, &["ext"]).contains("extend"));
    assert!(bash(&world, &["extend", "gr_x", "--"]).contains("--reason"));
    let fish =
        world.run("alice", "fish -c 'jit-broker completions fish | source; complete -C \"jit-broker ssh we\"'").ok();
    assert!(fish.contains("web-07"), "{fish}");
    let zsh = "autoload -U compinit && compinit -u -d $HOME/z; source <(jit-broker completions zsh); \
               echo ${_comps[jit-broker]:?nothing completes it}";
    let zsh = world.run("alice", &format!("zsh -c '{zsh}'"));
    assert_eq!(zsh.code, Some(0), "{}", zsh.err);
    // What zsh's function asks the program for.
    let asked =
        world.run("alice", "_CLAP_COMPLETE_INDEX=2 JIT_BROKER_COMPLETE=zsh jit-broker -- jit-broker ssh we").ok();
    assert!(asked.contains("web-07"), "{asked}");
}

#[test]
fn a_hostile_cache_completes_nothing_that_a_shell_would_run() {
    let world = World::start();
    world.run("alice", "jit-broker ls").ok();
    let known = world.dir.join("alice/jit/state/known.json");
    let text = std::fs::read_to_string(&known).unwrap();
    std::fs::write(&known, text.replace("\"web-07\"", "\"we;touch pwned\"")).unwrap();
    let offered = bash(&world, &["ssh", "we"]);
    assert!(!offered.contains("touch"), "{offered}");
    std::fs::write(&known, b"\xff not json").unwrap();
    bash(&world, &["ssh", "we"]);
}

#[test]
fn completions_are_installed_where_each_shell_looks() {
    let world = World::start();
    for (shell, place) in [
        ("bash", ".local/share/bash-completion/completions/jit-broker"),
        ("zsh", ".local/share/zsh/site-functions/_jit-broker"),
        ("fish", ".config/fish/completions/jit-broker.fish"),
    ] {
        world
            .run("alice", &format!("env -u XDG_DATA_HOME -u XDG_CONFIG_HOME jit-broker completions {shell} --install"))
            .ok();
        let text = std::fs::read_to_string(world.dir.join("alice").join(place)).unwrap();
        assert!(text.contains("JIT_BROKER_COMPLETE"), "{shell}: {text}");
    }
}

#[test]
fn every_verb_has_a_manual_page_that_man_formats_without_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let made =
        Command::new(env!("CARGO_BIN_EXE_jit-broker")).args(["man", "--out"]).arg(folder.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        names.push(path.file_name().unwrap().to_string_lossy().into_owned());
        let shown = Command::new("groff")
            .args(["-K", "utf8", "-man", "-Tutf8", "-ww", "-z"])
            .arg(&path)
            .stdin(Stdio::null())
            .output();
        let shown = shown.unwrap_or_else(|e| panic!("groff is missing ({e}): apt-get install groff-base"));
        assert!(
            shown.status.success() && shown.stderr.is_empty(),
            "{}: {}",
            path.display(),
            String::from_utf8_lossy(&shown.stderr)
        );
    }
    for page in ["jit-broker.1", "jit-broker-extend.1", "jit-broker-host-enroll.1", "jit-broker-audit-verify.1"] {
        assert!(names.contains(&page.to_owned()), "{page} in {names:?}");
    }
    assert!(
        !names.iter().any(|name| name.contains("hook") || name.contains("-man.")),
        "hidden verbs have none: {names:?}"
    );
    let main = Command::new("groff")
        .args(["-K", "utf8", "-man", "-Tascii", "-P-cbou"])
        .arg(folder.path().join("jit-broker.1"))
        .output();
    let main = String::from_utf8_lossy(&main.unwrap().stdout).into_owned();
    for part in ["EXIT STATUS", "ENVIRONMENT", "FILES", "EXAMPLES", "JIT_BROKER_HOME", "jit-broker-review(1)"] {
        assert!(main.contains(part), "{part} in {main}");
    }
}
