//! `upgrade`: nothing is lost, nothing comes twice; and what cannot take over changes nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::stage::{Stage, ok, say, takeover};

const UPGRADES: usize = 20;

#[test]
fn twenty_upgrades_lose_nothing_and_repeat_nothing() {
    let _alone = lab::paths::alone().unwrap();
    let mut stage = Stage::set();
    let mut gaps: Vec<u64> = stage.during(|instance| {
        let upgrade = |_| {
            let before = instance.base_process().unwrap();
            let report: Value =
                serde_json::from_str(&ok(instance, &["upgrade", "--json"])).unwrap();
            assert_ne!(report["base"], before, "{report}");
            report["gap_microseconds"].as_u64().unwrap()
        };
        (0..UPGRADES).map(upgrade).collect()
    });
    stage.assert_complete(0);
    stage.assert_unnoticed();
    gaps.sort_unstable();
    let (median, most) = (gaps[UPGRADES / 2], gaps[UPGRADES - 1]);
    println!("{UPGRADES} upgrades: nobody served for {median} us in the median, {most} us at most");
    let ps = stage.instance.ps().unwrap();
    assert_eq!(ps["instance"]["takeovers"], UPGRADES);
    assert_eq!(takeover(&stage.instance)["how"], "switch");
    stage.instance.down().unwrap();
}

#[test]
fn what_is_no_program_of_ours_and_what_does_not_come_up_change_nothing() {
    let mut stage = Stage::set();
    let before = stage.instance.base_process().unwrap();
    // It says that it is one, and then is not.
    let liar = stage.instance.dir().join("liar");
    fs::write(&liar, "#!/bin/sh\n[ \"$1\" = --version ] && echo ipvisor 9.9.9\n").unwrap();
    fs::set_permissions(&liar, fs::Permissions::from_mode(0o755)).unwrap();
    let liar = liar.to_str().unwrap().to_owned();
    let said = stage.during(|instance| {
        [liar.as_str(), "/bin/true", "/etc/passwd", "/nowhere"]
            .map(|binary| say(instance, &["upgrade", binary]))
    });
    for (said, why) in said.iter().zip(["cannot take over", "does not say", "cannot run", "cannot"])
    {
        assert_eq!(said.status, 1, "{}", said.err);
        assert!(said.err.contains(why), "{}", said.err);
    }
    assert_eq!(stage.instance.base_process().unwrap(), before);
    stage.assert_complete(0);
    stage.assert_unnoticed();
    // What the command checks, the base checks for others.
    let wish = serde_json::json!({"do": "upgrade", "binary": "/etc/passwd"});
    let refused = stage.instance.ask(&wish).unwrap_err().to_string();
    assert!(refused.contains("it is not a program"), "{refused}");
    stage.instance.down().unwrap();
}

#[test]
fn up_where_an_instance_runs_goes_on_with_this_program_and_file() {
    let mut stage = Stage::set();
    let before = stage.instance.base_process().unwrap();
    let file = stage.instance.config_path();
    let said = stage.during(|instance| ok(instance, &["up", file.to_str().unwrap()]));
    assert!(said.contains("runs already") && said.contains("reloaded"), "{said}");
    assert_ne!(stage.instance.base_process().unwrap(), before);
    stage.assert_complete(0);
    stage.assert_unnoticed();
    stage.instance.down().unwrap();
}
