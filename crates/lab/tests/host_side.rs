//! The host's kernel beside the base: its routes are set right, and not talked to about what is.

use std::fs::File;
use std::process::Stdio;

use lab::command::wait_until;
use lab::driver::Settings;
use lab::scene::{CARD, vm};
use lab::wired::{LIMIT, Wired, Wiring};

#[test]
fn a_change_at_the_host_touches_no_route_that_is_right() {
    let _alone = lab::paths::alone().unwrap();
    let wiring = Wiring { drivers: [Settings::plain(); 2], ..Wiring::default() };
    let wired = Wired::up(&wiring).unwrap();
    let host = &wired.scene.host;
    // What the kernel tells everybody, the base's own monitor too.
    let told = wired.instance.dir().join("routes");
    let output = Stdio::from(File::create(&told).unwrap());
    let mut monitor = host.command("ip").args(["monitor", "route"]).stdout(output).spawn().unwrap();
    let text = || std::fs::read_to_string(&told).unwrap();

    let lost = vm(0)[0].to_string();
    let routes = || host.run(&format!("ip route show {lost}")).unwrap();
    let route = routes().trim().to_owned();
    assert!(route.contains("proto static"), "{route}");
    wait_until(
        LIMIT,
        || "the monitor's first word".to_owned(),
        || {
            host.run(&format!("ip route replace 198.51.100.9/32 dev {CARD}"))?;
            Ok(text().contains("198.51.100.9").then_some(()))
        },
    )
    .unwrap();
    host.run(&format!("ip route del {route}")).unwrap();
    // Something else happens, and the base looks at all of the host.
    host.run("ip link add name other0 type veth peer name other1").unwrap();
    wait_until(
        LIMIT,
        || format!("the route to {lost}, among {:?}", text()),
        || Ok((routes().trim() == route).then_some(())),
    )
    .unwrap();
    monitor.kill().unwrap();
    monitor.wait().unwrap();
    let told = text();
    assert!(told.contains(&lost), "{told}");
    for right in [vm(0)[1], vm(1)[0], vm(1)[1]] {
        assert!(!told.contains(&format!("{right} ")), "{right} was written again: {told}");
    }
    wired.instance.down().unwrap();
}
