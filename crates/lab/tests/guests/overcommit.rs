//! More than the machine has: refused before anything is started, or given because it is asked for.

use std::fmt::Write;
use std::path::Path;

use lab::command::finish;
use lab::instance::Instance;
use lab::netns::Netns;

use crate::stage::{Turn, status, wait_state};

/// The first sector of a disk whose guest does nothing at all: halted, for ever.
fn sleeping_disk(path: &Path) {
    let mut sector = vec![0xf4, 0xeb, 0xfd];
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    std::fs::write(path, sector).unwrap();
}

#[test]
fn more_cpus_than_there_are_are_refused_at_up_unless_overcommit_is_asked_for() {
    let _turn = Turn::beside_others();
    let space = Netns::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk.img");
    sleeping_disk(&disk);
    let has = std::thread::available_parallelism().unwrap().get();
    let names: Vec<_> = (0..=has).map(|n| format!("vm{n}")).collect();
    let mut config = "[network.inner]\nprefixes = [\"203.0.113.0/24\"]\n".to_owned();
    for (number, name) in names.iter().enumerate() {
        writeln!(
            config,
            "[vm.{name}]\ndisk = [{{ path = {disk:?}, readonly = true }}]\nmemory = \"32M\"\n\
             addresses = [\"203.0.113.{}\"]\nstop_timeout = \"1s\"",
            number + 10
        )
        .unwrap();
    }

    let (file, state) = (dir.path().join("config.toml"), dir.path().join("state"));
    std::fs::write(&file, &config).unwrap();
    let mut up = space.command(lab::paths::ipvisor().unwrap());
    up.arg("up").arg(&file).arg("--detach").arg("--state-dir").arg(&state);
    let refused = finish(&mut up).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    for word in [&names[has], "needs 1 CPU", "0 are free", "overcommit = true"] {
        assert!(refused.stderr.contains(word), "{word}: {}", refused.stderr);
    }
    assert!(!state.exists());
    assert_eq!(space.processes().unwrap(), []);

    let instance = Instance::up(&space, &format!("[host]\novercommit = true\n{config}")).unwrap();
    for name in &names {
        wait_state(&instance, name, "running");
    }
    assert!(names.iter().all(|name| status(&instance, name)["state"] == "running"));
    instance.down().unwrap();
}
