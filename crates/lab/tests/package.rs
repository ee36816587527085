//! The Debian package on a Debian: installed by dpkg, started by systemd, upgraded under a running
//! instance, removed, in an emulated computer.
//!
//! Only with the feature `long`: it needs the program as it is shipped, and minutes.
#![cfg(feature = "long")]

use std::process::Command;
use std::time::Duration;

use lab::command::output;
use lab::computer;
use lab::image::Image;
use lab::paths;

const JOB: &str = include_str!("../computer/package-job");

#[test]
fn the_package_is_installed_upgraded_and_removed_and_leaves_what_is_the_operators() {
    let _alone = paths::alone().unwrap();
    output(Command::new("make").arg("deb").current_dir(paths::workspace())).unwrap();
    let deb = paths::ipvisor_release().unwrap().with_file_name("../deb");
    let package = deb.join(format!("ipvisor_{}_amd64.deb", env!("CARGO_PKG_VERSION")));
    let package = std::fs::canonicalize(package).unwrap();
    let image = Image::get(|_| {}).unwrap();
    let job = format!("PACKAGE='{}'\n{JOB}", package.display());
    let ran = computer::run(&image, &job, Duration::from_secs(400)).unwrap();
    assert_eq!(ran.status, 0, "{}", ran.text);
    println!("{}", ran.text);
}
