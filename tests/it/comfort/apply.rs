//! Changes of a bundle whose rules name administrators of [trust] that people.toml does not have.

use crate::served::Served;

/// Two administrators, neither in people.toml; what is adopted names none of them.
fn two_administrators() -> Served {
    let mut served = Served::init();
    let config = served.config().display().to_string();
    served.name_second();
    let reset = served.operator(&["trust", "reset", "--config", &config, "--yes"]).output().unwrap();
    assert!(reset.status.success(), "{reset:?}");
    served.serve();
    served.adopt();
    served.sign_in("second");
    served
}

fn edit(served: &Served, name: &str, change: impl FnOnce(String) -> String) {
    let path = served.dir.join("bundle").join(name);
    std::fs::write(&path, change(std::fs::read_to_string(&path).unwrap())).unwrap();
}

#[test]
fn a_bundle_may_name_another_administrator_and_its_changes_are_shown_to_both() {
    let served = two_administrators();
    let offices = "operators = [\"group:leads\"]";
    edit(&served, "people.toml", |text| text.replace(offices, "operators = [\"group:leads\", \"person:root-admin\"]"));
    edit(&served, "policy.toml", |text| {
        text + "\n[[rule]]\nid = \"both\"\nwho = [\"person:root-admin\", \"person:second\"]\n\
                targets = { name = \"broker/policy\" }\nroles = [\"apply\"]\n  [[rule.step]]\n  name = \"other\"\n  need = 1\n  \
                from = [\"person:second\", \"person:root-admin\"]\n"
    });
    for who in ["root-admin", "second"] {
        served.cli(who, "jit-broker policy check ../bundle").ok();
    }
    served.cli("root-admin", "jit-broker apply ../bundle --yes").ok();
    // The plan of the next one is against what was adopted, which names root-admin, and not against nothing.
    edit(&served, "people.toml", |text| text.replace(", \"person:root-admin\"]", "]"));
    let removed = "- office operator person:root-admin\n";
    let plan = served.cli("second", "jit-broker apply ../bundle --dry-run").ok();
    assert_eq!(plan, removed);
    let asked = served.cli("second", "jit-broker -o json apply ../bundle --yes").json();
    assert_eq!(asked["removed"][0], "office operator person:root-admin");
    // Who is asked sees the same, and agrees.
    let id = asked["request"]["id"].as_str().unwrap();
    let shown = served.cli("root-admin", &format!("jit-broker show {id}")).ok();
    assert!(shown.ends_with(removed), "{shown}");
    served.cli("root-admin", &format!("jit-broker approve {id}")).ok();
    let policy = served.cli("second", "jit-broker policy show").ok();
    assert!(policy.contains(offices), "{policy}");
    // A name that is nobody's is refused here as well as there.
    edit(&served, "people.toml", |text| text.replace(offices, "operators = [\"person:secnd\"]"));
    let refused = served.cli("second", "jit-broker apply ../bundle --yes");
    assert!(refused.code == Some(78) && refused.err.contains("there is no person secnd"), "{refused:?}");
}

#[test]
fn doctor_knows_the_keys_of_administrators_who_came_later() {
    let served = two_administrators();
    edit(&served, "policy.toml", |text| {
        text.replace("auto = true\n", "  [[rule.step]]\n  name = \"other\"\n  need = 1\n  from = [\"person:second\"]\n")
    });
    served.cli("root-admin", "jit-broker apply ../bundle --yes").ok();
    let found = served.cli("root-admin", &format!("jit-broker doctor --config {}", served.config().display())).out;
    assert!(found.contains("approvers") && found.contains("every step can be met"), "{found}");
    assert!(!found.contains("has no key"), "{found}");
}
