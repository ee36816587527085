//! One configuration after another under traffic: each time what will change is told, and then done.

use lab::driver::{DriverPort, Settings};
use lab::instance::Instance;
use lab::scene::vm;
use lab::wired::MACS;
use serde_json::Value;

use crate::stage::{Stage, ok, say};

/// A VM that somebody else runs.
fn port(name: &str, number: u8, more: &str) -> String {
    let [v4, v6] = vm(number);
    format!(
        "\n[vm.{name}]\nengine = \"external\"\nsocket = \"{name}.sock\"\nmtu = 1400\n\
         addresses = [\"{v4}\", \"{v6}\"]\n{more}"
    )
}

fn write(instance: &Instance, text: &str) {
    std::fs::write(instance.config_path(), text).unwrap();
}

/// Lines that are told of changes.
fn told(out: &str) -> Vec<&str> {
    out.lines().filter_map(|line| line.strip_prefix("  ")).collect()
}

/// Shows the difference to `text`, which must be as expected and change nothing, then reloads it.
fn go(instance: &Instance, text: &str, expected: &[&str]) {
    write(instance, text);
    let before = instance.base_process().unwrap();
    let dry = ok(instance, &["reload", "--dry-run"]);
    assert_eq!(told(&dry), expected);
    assert_eq!(instance.base_process().unwrap(), before, "--dry-run changed the base");
    let out = ok(instance, &["reload"]);
    assert_eq!(told(&out), expected);
    assert!(out.contains("reloaded: version"), "{out}");
    assert_ne!(instance.base_process().unwrap(), before);
}

fn names(instance: &Instance) -> Vec<String> {
    let ps = instance.ps().unwrap();
    let vms = ps["vms"].as_array().unwrap();
    vms.iter().map(|v| v["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn transitions_are_told_and_done_while_the_traffic_of_others_loses_nothing() {
    let mut stage = Stage::set();
    let first = std::fs::read_to_string(stage.instance.config_path()).unwrap();
    let (c, d) = (port("c", 2, ""), port("d", 3, ""));
    let with_dns = first.replacen("[network.lan]", "[network.lan]\ndns = [\"203.0.113.53\"]", 1);
    let named = |text: &str| text.replace("\nengine = ", "\nnetwork = \"lan\"\nengine = ");
    let inside = "\n[network.inside]\nprefixes = [\"198.51.100.0/24\"]\n";
    stage.during(|instance| {
        go(instance, &(first.clone() + &c + &d), &["+ vm/c gets its port", "+ vm/d gets its port"]);
        assert_eq!(names(instance), ["a", "b", "c", "d"]);
        go(
            instance,
            &(with_dns.clone() + &c + &port("d", 4, "hostname = \"delta\"\n")),
            &[
                "~ network/lan changes: dns none -> 203.0.113.53",
                "~ vm/d changes: addresses + 203.0.113.14, + 2001:db8:1::14, - 203.0.113.13, - \
                 2001:db8:1::13; hostname d -> delta",
            ],
        );
        go(
            instance,
            &(named(&with_dns) + &named(&c) + inside),
            &["+ network/inside is added", "- vm/d loses its port"],
        );
        assert!(!instance.socket("d").exists());
        go(
            instance,
            &(first.clone() + &c.replace("c.sock", "other.sock")),
            &[
                "- network/inside is removed",
                "~ network/lan changes: dns 203.0.113.53 -> none",
                "~ vm/c changes: socket c -> other",
            ]
            .map(|line| {
                let path = |name: &str| instance.dir().join(name).display().to_string();
                let sockets = format!("socket {} -> {}", path("c.sock"), path("other.sock"));
                &*line.replace("socket c -> other", &sockets).leak()
            }),
        );
        go(instance, &first, &["- vm/c loses its port"]);
        assert_eq!(names(instance), ["a", "b"]);
    });
    stage.assert_complete(0);
    stage.assert_unnoticed();
    stage.instance.down().unwrap();
}

#[test]
fn what_is_in_the_way_is_told_with_its_remedy_and_nothing_is_done() {
    let mut stage = Stage::set();
    let right = std::fs::read_to_string(stage.instance.config_path()).unwrap();
    let mac = MACS[0].map(|o| format!("{o:02x}")).join(":");
    let other = right.replace(&mac, "02:00:00:00:00:99") + &port("c", 2, "");
    let before = stage.instance.base_process().unwrap();
    stage.during(|instance| {
        write(instance, &other);
        let line = format!(
            "! vm/a needs a restart: mac {mac} -> 02:00:00:00:00:99 (it has a front end attached: \
             end that front end first)"
        );
        for words in [&["reload", "--dry-run"][..], &["reload"]] {
            let said = say(instance, words);
            assert_eq!(said.status, 1, "{words:?}: {}", said.err);
            assert_eq!(told(&said.out), [line.as_str(), "+ vm/c gets its port"]);
            assert!(said.err.contains("its mac cannot change"), "{}", said.err);
        }
        let said = say(instance, &["reload", "--dry-run", "--json"]);
        let shown: Value = serde_json::from_str(&said.out).unwrap();
        assert_eq!((said.status, &shown["possible"]), (1, &Value::Bool(false)), "{shown}");
        assert_eq!(shown["changes"][0]["subject"], "vm/a");
        assert_eq!(shown["changes"][0]["what"], "restart");

        // A wrong file is told as such, whatever it would change.
        write(instance, &other.replace("[network.lan]", "[network.lan]\nmtu = \"big\""));
        for words in [&["reload", "--dry-run"][..], &["reload"]] {
            let said = say(instance, words);
            assert_eq!((said.status, told(&said.out).len()), (2, 0), "{}", said.out);
            assert!(said.err.contains("config.toml:"), "{}", said.err);
        }
        write(instance, &right);
        assert_eq!(ok(instance, &["reload"]), "ipvisor: nothing to change\n");
    });
    assert_eq!(stage.instance.base_process().unwrap(), before);
    assert_eq!(names(&stage.instance), ["a", "b"]);
    stage.assert_complete(0);
    stage.assert_unnoticed();
    stage.instance.down().unwrap();
}

#[test]
fn up_tells_what_it_changes_and_what_it_would_begin_with() {
    let mut stage = Stage::set();
    let right = std::fs::read_to_string(stage.instance.config_path()).unwrap();
    let file = stage.instance.config_path().display().to_string();
    let more = right.clone() + &port("c", 2, "");
    stage.during(|instance| {
        write(instance, &more);
        let before = instance.base_process().unwrap();
        let dry = ok(instance, &["up", &file, "--dry-run"]);
        assert!(dry.contains("it would go on with this configuration"), "{dry}");
        assert_eq!(told(&dry), ["+ vm/c gets its port"]);
        assert_eq!(instance.base_process().unwrap(), before);
        let done: Value = serde_json::from_str(&ok(instance, &["up", &file, "--json"])).unwrap();
        assert_eq!(done["changed"], true, "{done}");
        assert_eq!(done["changes"][0]["what"], "open", "{done}");
    });
    // The newcomer can be met: what was told was done.
    let settings = Settings { ring: 256, ..Settings::plain() };
    drop(DriverPort::connect(&stage.instance.socket("c"), &settings).unwrap());
    stage.assert_complete(0);
    ok(&stage.instance, &["down"]);

    let dry = ok(&stage.instance, &["up", &file, "--dry-run"]);
    let expected = [
        "+ network/lan is added",
        "+ vm/a gets its port",
        "+ vm/b gets its port",
        "+ vm/c gets its port",
    ];
    assert_eq!(told(&dry), expected);
    assert!(!stage.instance.state_dir().exists(), "--dry-run left something behind");
}
