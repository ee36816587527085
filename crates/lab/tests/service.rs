//! ipvisor as a service under real systemd, in an emulated computer: what is done to the service is
//! not done to the VMs.
//!
//! Only with the feature `long`: QEMU 7.2 loses an interrupt of a guest's guest now and then, which
//! is no reason to distrust a change.
#![cfg(feature = "long")]

use std::time::Duration;

use lab::computer;
use lab::image::Image;
use lab::paths;

const JOB: &str = include_str!("../computer/service-job");

/// The job with what it needs to know before it.
fn job(image: &Image) -> String {
    let unit = paths::workspace().join("dist/ipvisor.service");
    let words = [
        ("PROGRAM", paths::ipvisor_with_faults().unwrap()),
        ("UNIT", unit),
        ("KERNEL", image.kernel.clone()),
        ("INITRAMFS", image.initramfs.clone()),
        ("CMDLINE", Image::CMDLINE.into()),
    ];
    let told: String = words.map(|(name, is)| format!("{name}='{}'\n", is.display())).concat();
    told + JOB
}

#[test]
fn vms_run_on_whatever_is_done_to_the_service() {
    let _alone = paths::alone().unwrap();
    let image = Image::get(|_| {}).unwrap();
    let ran = computer::run(&image, &job(&image), Duration::from_secs(400)).unwrap();
    assert_eq!(ran.status, 0, "{}", ran.text);
    println!("{}", ran.text);
}
