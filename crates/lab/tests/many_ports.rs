//! A thousand ports are taken over, every one of them. How long that takes, `survive --ports` measures
//! and judges; here it must not be out of all proportion.

use std::time::Duration;

use lab::crowd::{Crowd, name};

/// Ports, nearly as many as an instance can have.
const PORTS: usize = 1000;
/// Ten times what a takeover of so many may take on a machine that does nothing else.
const GAP: Duration = Duration::from_secs(5);

#[test]
fn a_thousand_ports_are_taken_over() {
    let _alone = lab::paths::alone().unwrap();
    let mut crowd = Crowd::up(&lab::paths::ipvisor_with_faults().unwrap(), PORTS).unwrap();
    crowd.everyone_talks().unwrap();
    let gap = crowd.gap().unwrap();
    println!("nothing came for {gap:?}");
    assert!(gap < GAP, "nothing came for {gap:?}");
    crowd.everyone_talks().unwrap();
    for event in crowd.instance.events().unwrap() {
        let kind = event["kind"].as_str().unwrap();
        assert!(!["renegotiate", "detached", "door_lost"].contains(&kind), "{event}");
    }
    let ps = crowd.instance.ps().unwrap();
    let attached = ps["vms"].as_array().unwrap().iter().filter(|vm| vm["attached"] == true);
    assert_eq!(attached.count(), PORTS);
    crowd.instance.wait_event("adopted", &format!("vm/{}", name(PORTS - 1)), "").unwrap();
    crowd.instance.down().unwrap();
}
