//! The lab's own guest, without a base: it boots, answers, and ends.

use std::time::{Duration, Instant};

use lab::guest::{Options, Qemu};
use lab::image::Image;

#[test]
fn a_guest_boots_runs_commands_and_powers_off() {
    let image = Image::get(|_| {}).unwrap();
    let start = Instant::now();
    let mut qemu = Qemu::boot("plain", &image, &Options::default()).unwrap();
    println!("shell after {:?}", start.elapsed());
    let guest = qemu.guest();

    assert_eq!(guest.run("echo one; echo two >&2; exit 7").unwrap().text, "one\ntwo\n");
    assert_eq!(guest.run("exit 7").unwrap().status, 7);
    let long = guest.ok("seq 1 2000").unwrap();
    assert_eq!(long.lines().count(), 2000);
    for program in ["dhcpcd --version", "iperf3 --version", "ip -V", "ping -V", "arping -V"] {
        guest.ok(program).unwrap();
    }
    for program in ["ndisc6 -V", "rdisc6 -V", "tcpdump --version", "ethtool --version", "ss -V"] {
        guest.ok(program).unwrap();
    }
    assert!(guest.ok("ping -c1 127.0.0.1 && ping -c1 ::1").unwrap().contains("1 received"));
    assert!(guest.ok("ip -V").unwrap().contains("iproute2"));
    guest.ok("lsmod | grep virtio_net").unwrap();

    // A command that hangs is given up, and the shell is there again.
    assert!(guest.run_within("sleep 100", Duration::from_millis(300)).is_err());
    assert_eq!(guest.ok("echo back").unwrap(), "back\n");

    guest.console().send(b"9 poweroff -f\n").unwrap();
    assert!(qemu.process().wait(Duration::from_secs(10)).unwrap().success());
}
