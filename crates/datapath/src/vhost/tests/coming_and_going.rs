//! Front ends come, go, and come back, through both kinds of door.

use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::{Duration, Instant};

use super::stage::{FrontEnd, Guest, ID, NAME, PATIENCE, Stage, most_events};
use crate::names::PortId;
use crate::vhost::{DoorError, Farewell, PortDoor, PortEvent, Socket};

/// Set in the process in which nothing else runs that opens or closes descriptors.
const ALONE: &str = "VHOST_TEST_ALONE";

#[test]
fn two_hundred_front_ends_leave_no_descriptor_and_no_mapping_behind() {
    if std::env::var_os(ALONE).is_none() {
        let name = std::thread::current().name().unwrap().to_owned();
        let mut alone = Command::new(std::env::current_exe().unwrap());
        let status = alone.args(["--exact", &name]).env(ALONE, "1").status().unwrap();
        assert!(status.success());
        return;
    }
    let (stage, guest) = (Stage::listening(), Guest::new());
    let count = || {
        let mappings = std::fs::read_to_string("/proc/self/maps").unwrap();
        let guests = mappings.lines().filter(|line| line.contains("memfd:driver")).count();
        (std::fs::read_dir("/proc/self/fd").unwrap().count(), guests)
    };
    let visit = || {
        stage.connect().say(&guest.conversation());
        let since = Instant::now();
        while stage.keeper.keys().len() > 1 {
            assert!(since.elapsed() < PATIENCE);
            assert!(stage.handle.answers_within(PATIENCE));
        }
        // Its socket is closed after that.
        assert!(stage.handle.answers_within(PATIENCE));
    };
    let start = Instant::now();
    visit();
    let before = count();
    for _ in 0..200 {
        visit();
    }
    assert_eq!(count(), before);
    let events = stage.events();
    assert!(matches!(events.first(), Some(PortEvent::Attached)));
    let left = |e: &PortEvent| matches!(e, PortEvent::Detached { why: Farewell::HungUp });
    assert!(events.iter().any(left));
    let most = most_events(start.elapsed());
    assert!(events.len() <= most, "front ends that come and go are not told without end");
    assert_eq!(stage.owner.running(), 0);
    assert_eq!(stage.keeper.keys(), ["port/web/listener"]);
}

#[test]
fn a_crowd_at_the_door_is_met_in_turns() {
    let stage = Stage::listening();
    let mut first = stage.connect();
    assert!(first.settle());
    let crowd: Vec<_> = (0..100).map(|_| stage.connect()).collect();
    for mut front in crowd {
        assert!(front.is_hung_up());
    }
    assert!(first.settle());
}

#[test]
fn a_second_front_end_is_turned_away_while_the_first_lives() {
    let (stage, guest) = (Stage::listening(), Guest::new());
    let mut first = stage.connect();
    first.say(&guest.conversation());
    for _ in 0..3 {
        assert!(stage.connect().is_hung_up());
    }
    assert!(first.settle());
    assert_eq!(stage.owner.running(), 2);
    let refused = |e: &PortEvent| matches!(e, PortEvent::NewcomerRefused);
    assert_eq!(stage.events().iter().filter(|e| refused(e)).count(), 1);
    drop(first);
    // It may be met before the first one's end is seen: that one is found dead.
    stage.connect().say(&guest.conversation());
}

#[test]
fn a_port_connects_to_a_front_end_that_listens_however_late_and_again() {
    let (stage, guest) = (Stage::new(), Guest::new());
    let path = stage.path();
    let mut door = stage.door();
    door.socket = Socket::Connect(path.clone());
    stage.add(door).unwrap();
    std::thread::sleep(Duration::from_millis(120));
    for _ in 0..5 {
        let listener = UnixListener::bind(&path).unwrap();
        let since = Instant::now();
        let (socket, _) = listener.accept().unwrap();
        assert!(since.elapsed() < PATIENCE);
        let mut front = FrontEnd::over(socket);
        front.say(&guest.conversation());
        assert_eq!(stage.owner.running(), 2);
        drop((front, listener));
        std::fs::remove_file(&path).unwrap();
    }
    assert!(stage.handle.remove_port(ID));
    assert!(stage.keeper.keys().is_empty());
}

#[test]
fn a_reset_front_end_may_come_again() {
    let (stage, guest) = (Stage::listening(), Guest::new());
    assert!(!stage.handle.reset_port(ID));
    let mut front = stage.connect();
    front.say(&guest.conversation());
    assert!(stage.handle.reset_port(ID));
    assert!(front.is_hung_up());
    assert_eq!(stage.owner.running(), 0);
    stage.connect().say(&guest.conversation());
}

#[test]
fn a_removed_port_leaves_nothing() {
    let (stage, guest) = (Stage::listening(), Guest::new());
    let mut front = stage.connect();
    front.say(&guest.conversation());
    assert!(stage.handle.remove_port(ID));
    assert!(front.is_hung_up());
    assert!(!stage.path().exists());
    assert!(stage.keeper.keys().is_empty());
    assert_eq!(stage.record().name(), None);
    assert!(!stage.handle.remove_port(ID));
    stage.add(stage.door()).unwrap();
    stage.connect().say(&guest.conversation());
}

#[test]
fn doors_that_cannot_be_opened_are_refused_by_name() {
    let stage = Stage::listening();
    let door = |id: u16, name: &str| PortDoor {
        id: PortId(id),
        name: name.to_owned(),
        socket: Socket::Listen(stage.dir.path().join(format!("{id}.sock"))),
        features_mask: u64::MAX,
        pairs: 1,
    };
    for name in ["", "a/b", &"x".repeat(65)] {
        assert!(matches!(stage.add(door(1, name)), Err(DoorError::Name { .. })), "{name}");
    }
    assert!(matches!(stage.add(door(1, NAME)), Err(DoorError::Taken { .. })));
    assert!(matches!(stage.add(door(ID.0, "other")), Err(DoorError::Taken { .. })));
    let mut same = door(1, "other");
    same.socket = Socket::Listen(stage.path());
    assert!(matches!(stage.add(same), Err(DoorError::InUse { .. })));
    stage.add(door(1, "other")).unwrap();
    stage.assert_well();
}
