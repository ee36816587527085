//! `reload`: what changes, what cannot, and that others do not notice.

use std::net::IpAddr;

use lab::command::wait_until;
use lab::driver::{DriverPort, Settings};
use lab::numbered::Flow;
use lab::scene::vm;
use lab::wired::MACS;

use crate::stage::{LIMIT, Stage, ok, reload, say};

const THIRD: [u8; 6] = [2, 0, 0, 0, 0, 0xc];

/// The third VM's table.
fn third() -> String {
    let [v4, v6] = vm(2);
    format!(
        "\n[vm.c]\nengine = \"external\"\nsocket = \"c.sock\"\nmac = \"02:00:00:00:00:0c\"\n\
         addresses = [\"{v4}\", \"{v6}\"]\n"
    )
}

/// Whether the host routes this address to the VMs.
fn routed(stage: &Stage, address: IpAddr) -> bool {
    let family = if address.is_ipv4() { "-4" } else { "-6" };
    let routes = stage.scene().host.run(&format!("ip {family} route")).unwrap();
    routes.lines().any(|line| line.split(' ').next() == Some(&address.to_string()))
}

#[test]
fn vms_and_addresses_come_and_go_under_the_traffic_of_others() {
    let mut stage = Stage::set();
    let more = vm(5)[0];
    let first = vm(0)[0];
    let said = stage.during(|instance| {
        reload(instance, |text| {
            let text =
                text.replacen(&format!("\"{first}\""), &format!("\"{first}\", \"{more}\""), 1);
            text + &third()
        })
    });
    assert_eq!(said.status, 0, "{}", said.err);
    stage.instance.wait_event("address_claimed", "network/lan", &more.to_string()).unwrap();
    assert!(routed(&stage, more) && routed(&stage, vm(2)[0]));

    // The newcomer is met, and talks with the host.
    let settings = Settings { ring: 256, ..Settings::plain() };
    let mut port = DriverPort::connect(&stage.instance.socket("c"), &settings).unwrap();
    let probe = Flow::new(vm(2)[0], vm(1)[0], (7, 7), 100).datagram(1);
    port.send_plain(&lab::frames::carry(stage.base_mac, THIRD, &probe)).unwrap();
    wait_until(
        LIMIT,
        || format!("a datagram of c:\n{}", stage.instance.messages()),
        || Ok((stage.instance.counters()?.get("vm/c", "to_vm") == 1).then_some(())),
    )
    .unwrap();

    let said = stage.during(|instance| {
        reload(instance, |text| text.replace(&third(), "").replace(&format!(", \"{more}\""), ""))
    });
    assert_eq!(said.status, 0, "{}", said.err);
    assert!(!routed(&stage, more) && !routed(&stage, vm(2)[0]) && routed(&stage, first));
    stage.instance.wait_event("departed", "vm/c", "its port is shut").unwrap();
    assert!(!stage.instance.socket("c").exists());
    // Nobody on the LAN is answered for what left.
    let asked = |address: IpAddr| {
        stage.scene().outside.run("ip neigh flush dev lan0").unwrap();
        stage.scene().outside.run(&format!("ping -n -c 1 -W 1 {address}"))
    };
    assert!(asked(more).is_err());
    let ps = stage.instance.ps().unwrap();
    assert_eq!(ps["vms"].as_array().unwrap().len(), 2, "{ps}");
    stage.assert_complete(0);
    stage.assert_unnoticed();
    stage.instance.down().unwrap();
}

/// The configuration with the card reached by this driver.
fn by(driver: &str, text: &str) -> String {
    let others = text.lines().filter(|line| !line.starts_with("driver"));
    let table = format!("[network.lan]\ndriver = \"{driver}\"");
    others.map(|line| line.replace("[network.lan]", &table) + "\n").collect()
}

#[test]
fn the_way_to_the_card_changes_under_traffic_and_nothing_is_lost() {
    let mut stage = Stage::set();
    for (driver, event) in [
        ("packet", None),
        ("xdp", Some("AF_XDP carries")),
        ("packet", Some("AF_XDP is not used any more")),
        ("xdp", Some("AF_XDP carries")),
    ] {
        let said = stage.during(|instance| {
            let said = reload(instance, |text| by(driver, &text));
            event.map(|event| instance.wait_event("driver", "network/lan", event).unwrap());
            said
        });
        assert_eq!(said.status, 0, "{driver}: {}", said.err);
        assert_eq!(stage.scene().has_program().unwrap(), driver == "xdp");
    }
    stage.assert_complete(0);
    stage.assert_unnoticed();
    assert_eq!(stage.instance.counters().unwrap().get("uplink/lan", "drop.rx_card_lost"), 0);
    stage.instance.down().unwrap();
}

#[test]
fn a_wrong_file_and_what_cannot_change_change_nothing() {
    let mut stage = Stage::set();
    let before = stage.instance.base_process().unwrap();
    let said = stage.during(|instance| {
        let path = instance.config_path();
        let right = std::fs::read_to_string(&path).unwrap();
        let mac = format!("mac = \"{}\"", MACS[0].map(|o| format!("{o:02x}")).join(":"));
        let other = "mac = \"02:00:00:00:00:99\"";
        assert!(right.contains(&mac));
        let wrong = [
            right.replace("[network.lan]", "[network.lan]\nmtu = \"big\""),
            right.replace(&mac, other),
            right.replace("a.sock", "d.sock"),
            right.replace("eth1", "eth7"),
        ]
        .map(|text| reload(instance, |_| text));
        std::fs::write(&path, right).unwrap();
        (wrong, ok(instance, &["reload"]))
    });
    let (wrong, right) = said;
    for (said, (status, why)) in wrong.iter().zip([
        (2, "config.toml:2:"),
        (1, "VM `a` has a front end attached: its mac cannot change; end that front end"),
        (1, "its socket cannot change"),
        (2, "there is no adapter `eth7` here"),
    ]) {
        assert_eq!(said.status, status, "{}", said.err);
        assert!(said.err.contains(why), "{}", said.err);
    }
    assert_eq!(right, "ipvisor: nothing to change\n");
    assert_eq!(stage.instance.base_process().unwrap(), before);
    stage.assert_complete(0);
    stage.instance.down().unwrap();
}

#[test]
fn another_file_is_the_one_to_reload_from_then_on_and_networks_come_and_go() {
    let mut stage = Stage::set();
    let other = stage.instance.dir().join("other.toml");
    let text = std::fs::read_to_string(stage.instance.config_path()).unwrap();
    let more = "\n[network.alone]\nprefixes = [\"198.51.100.0/24\"]\n\n[vm.d]\n\
                engine = \"external\"\nsocket = \"d.sock\"\nnetwork = \"alone\"\n\
                addresses = [\"198.51.100.7\"]\n";
    let named = text.replace("\nmac = ", "\nnetwork = \"lan\"\nmac = ");
    std::fs::write(&other, named.clone() + more).unwrap();
    let devices = |stage: &Stage| stage.scene().host.run("ip -br link").unwrap();
    stage.during(|instance| ok(instance, &["reload", other.to_str().unwrap()]));
    assert!(devices(&stage).contains("ipv1"), "{}", devices(&stage));
    let ps = stage.instance.ps().unwrap();
    assert_eq!(ps["instance"]["config"], other.to_str().unwrap());
    std::fs::write(&other, named).unwrap();
    stage.during(|instance| ok(instance, &["reload"]));
    wait_until(LIMIT, || devices(&stage), || Ok((!devices(&stage).contains("ipv1")).then_some(())))
        .unwrap();
    assert_eq!(say(&stage.instance, &["counters", "host/alone"]).status, 1);
    stage.assert_complete(0);
    stage.assert_unnoticed();
    stage.instance.down().unwrap();
}
