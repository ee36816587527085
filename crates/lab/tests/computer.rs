//! The emulated computer itself, with nothing of ours in it.

use std::time::Duration;

use lab::computer;
use lab::image::Image;
use lab::paths;

#[test]
fn the_computer_has_what_this_machine_may_lack_and_tells_how_a_job_ended() {
    let _alone = paths::alone().unwrap();
    let image = Image::get(|_| {}).unwrap();
    let script = "cat /sys/fs/cgroup/cgroup.controllers; ls /dev/kvm; systemctl is-active lab.target; exit 7";
    let ran = computer::run(&image, script, Duration::from_secs(200)).unwrap();
    assert_eq!(ran.status, 7, "{}", ran.text);
    for word in ["cpu", "memory", "/dev/kvm"] {
        assert!(ran.text.contains(word), "no {word} in {}", ran.text);
    }
}
