//! Machines that cannot be made here, as facts. Those that can are in the lab's `doctor`.

use std::path::Path;

use datapath::names::Mac;
use datapath::netlink::Link;
use datapath::uplink::{CardLook, Meddling};

use super::facts::{Device, Kvm, Qemu};
use super::*;
use crate::config::{Against, AsAccepted, ConfigErrors, check_with};
use crate::instance::host_facts::HostFacts;

fn config(text: &str) -> Config {
    read(text, "/etc/ipvisor/net.toml").unwrap()
}

fn read(text: &str, path: &str) -> Result<Config, ConfigErrors> {
    let against = Against { files: &AsAccepted, present: None, environment: &|_| None };
    check_with(text, Path::new(path), &against).map(|(_, config)| config)
}

const LAN: &str = "\
[network.lan]
uplink = \"eth1\"
prefixes = [\"203.0.113.0/24\"]
gateway = [\"203.0.113.1\"]
";

fn with_vm(rest: &str) -> Config {
    config(&format!("{LAN}[vm.web]\naddresses = [\"203.0.113.10\"]\ndisk = \"web.qcow2\"\n{rest}"))
}

fn eth1() -> Link {
    let mac = Some(Mac([2, 0, 0, 0, 0, 1]));
    Link { index: 2, name: "eth1".to_owned(), mac, mtu: 1500, up: true, carrier: true }
}

/// A sound machine with that card and the address .2 on it.
fn facts() -> Facts {
    let mut facts = Facts::sound();
    facts.host = HostFacts::default().with_link(eth1()).with_address(2, "203.0.113.2/24");
    facts.cards = [("eth1".to_owned(), Ok(CardLook::default()))].into();
    let gateway = ("203.0.113.1".parse().unwrap(), Mac([2, 0, 0, 0, 0, 2]));
    facts.answers = [("lan".to_owned(), Ok([gateway].into()))].into();
    facts
}

/// What is not as it should be, as it is told.
fn wrong(facts: &Facts, config: &Config) -> Vec<String> {
    let all = examine(facts, Some(config)).into_iter();
    all.filter(|f| f.level != Level::Ok).map(|f| format!("{} {f}", f.level)).collect()
}

#[test]
fn nothing_is_wrong_with_a_sound_machine_and_all_is_told() {
    let config = with_vm("");
    assert_eq!(wrong(&facts(), &config), Vec::<String>::new());
    let abouts: Vec<_> = examine(&facts(), Some(&config)).into_iter().map(|f| f.about).collect();
    let expected = [
        "kernel",
        "kvm",
        "qemu",
        "cpus",
        "memory",
        "huge pages",
        "privileges",
        "bpf",
        "tun",
        "open files",
        "locked memory",
        "forwarding",
        "state",
        "card eth1",
        "network lan",
    ];
    assert_eq!(abouts, expected);
}

#[test]
fn each_reason_for_vms_in_software_has_its_own_cure() {
    let kvm = |module, wanted, nested, device| Kvm { module, wanted, nested, device };
    let cases = [
        (
            kvm(Some("kvm_amd"), Some("kvm_amd"), false, Device::Denied),
            "warning kvm: kvm_amd is loaded, but this user may not use /dev/kvm: VMs run in software, much slower  -> sudo usermod -aG kvm $USER, then log in again",
        ),
        (
            kvm(None, Some("kvm_intel"), false, Device::Missing),
            "warning kvm: the processor could, but kvm_intel is not loaded: VMs run in software, much slower  -> sudo modprobe kvm_intel",
        ),
        (
            kvm(None, None, true, Device::Missing),
            "warning kvm: the processor shows no VT-x or AMD-V: VMs run in software, much slower  -> turn on nested virtualisation where this machine, a VM, is run",
        ),
        (
            kvm(None, None, false, Device::Usable),
            "warning kvm: /dev/kvm is there, but neither kvm_intel nor kvm_amd, which ordinary guests need: VMs run in software, much slower  -> turn on VT-x or AMD-V in the firmware's set-up",
        ),
    ];
    for (kvm, expected) in cases {
        let facts = Facts { kvm, ..facts() };
        assert_eq!(wrong(&facts, &with_vm("")), [expected]);
    }
}

#[test]
fn vms_that_do_not_fit_are_an_error_unless_that_is_wanted() {
    let big = "cpus = 5\nmemory = \"9G\"\n";
    let said = wrong(&facts(), &with_vm(big));
    let cure = "give the VMs less, or write `overcommit = true` under [host]";
    assert_eq!(
        said,
        [
            format!("error cpus: the machine has 4, the VMs are given 5  -> {cure}"),
            format!(
                "error memory: the machine has 8192M, 6144M of it free; the VMs are given 9216M  -> {cure}"
            ),
        ]
    );
    let said = wrong(&facts(), &with_vm(&format!("{big}[host]\novercommit = true\n")));
    assert!(
        matches!(said.as_slice(), [memory] if memory.starts_with("warning memory")),
        "{said:?}"
    );
    assert!(wrong(&facts(), &with_vm(&format!("{big}autostart = false\n"))).is_empty());
}

#[test]
fn a_card_that_merges_for_good_cannot_be_used_and_one_that_can_be_told_can() {
    let with = |fixed| {
        let merges = vec![Meddling { name: "rx-lro", fixed }];
        let look = CardLook { merges, ..CardLook::default() };
        Facts { cards: [("eth1".to_owned(), Ok(look))].into(), ..facts() }
    };
    assert_eq!(wrong(&with(false), &with_vm("")), Vec::<String>::new());
    assert_eq!(
        wrong(&with(true), &with_vm("")),
        [
            "error card eth1: it merges datagrams on the way in and cannot be told not to: rx-lro  -> use another card or driver; `ethtool -k eth1` shows what it can"
        ]
    );
}

#[test]
fn an_old_kernel_is_told_twice_if_af_xdp_is_asked_for() {
    let mut facts = facts();
    facts.release = "5.10.0-28-amd64".to_owned();
    let xdp = format!(
        "{LAN}driver = \"xdp\"\n[vm.web]\naddresses = [\"203.0.113.10\"]\nengine = \"external\"\nsocket = \"s\"\n"
    );
    assert_eq!(
        wrong(&facts, &config(&xdp)),
        [
            "warning kernel: Linux 5.10.0-28-amd64 is older than what ipvisor is tested on, 6.1  -> install a newer kernel: Debian 12 has 6.1",
            "warning card eth1: AF_XDP cannot carry its datagrams, a packet socket does: it needs Linux 6.4  -> no `driver = \"xdp\"` under [network.lan]",
        ]
    );
    facts.release = "6.12.1".to_owned();
    facts.capabilities = !(1 << facts::capability::IPC_LOCK);
    facts.lockable = Some(8 << 20);
    assert_eq!(
        wrong(&facts, &config(&xdp)),
        [
            "warning locked memory: a process may lock 8M, AF_XDP needs 16M: a packet socket carries the datagrams  -> ulimit -l unlimited as root before ipvisor is started, or LimitMEMLOCK=infinity in its unit"
        ]
    );
}

#[test]
fn what_is_missing_is_an_error_only_where_it_is_needed() {
    let mut facts = facts();
    facts.qemu = None;
    facts.modules = [("cls_bpf", false), ("tun", true)].into();
    let level = |config: Option<&Config>, about: &str| {
        let all = examine(&facts, config);
        all.into_iter().find(|f| f.about == about).map(|f| f.level)
    };
    let (needs, private) =
        (with_vm(""), config("[network.inside]\nprefixes = [\"198.51.100.0/24\"]\n"));
    assert_eq!(level(Some(&needs), "qemu"), Some(Level::Error));
    assert_eq!(level(Some(&needs), "modules"), Some(Level::Error));
    assert_eq!(level(None, "qemu"), Some(Level::Warning));
    assert_eq!(level(Some(&private), "qemu"), Some(Level::Ok));
    assert_eq!(level(Some(&private), "modules"), Some(Level::Warning));
}

#[test]
fn firmware_that_is_not_installed_is_named() {
    let mut facts = facts();
    let version = "QEMU emulator version 7.2.0".to_owned();
    facts.qemu = Some(Qemu { version, lacks: vec!["bios-256k.bin"] });
    assert_eq!(
        wrong(&facts, &with_vm("")),
        [
            "error qemu: QEMU emulator version 7.2.0 lacks firmware: bios-256k.bin  -> sudo apt install --reinstall seabios qemu-system-data"
        ]
    );
}

#[test]
fn huge_pages_that_are_set_aside_are_memory_that_vms_do_not_get() {
    let facts = Facts { huge: 1 << 30, ..facts() };
    assert_eq!(
        wrong(&facts, &with_vm("")),
        [
            "warning huge pages: 1024M are set aside for them, which VMs do not use  -> sudo sysctl vm.nr_hugepages=0"
        ]
    );
}

#[test]
fn the_hosts_single_address_with_a_router_elsewhere_is_no_mistake() {
    let mut facts = facts();
    facts.host = HostFacts::default().with_link(eth1()).with_address(2, "198.51.100.7/32");
    let routed = config(
        "[network.lan]\nuplink = \"eth1\"\nprefixes = [\"203.0.113.77/32\"]\n\
         gateway = [\"203.0.113.1\"]\non_link = false\n\
         [vm.web]\naddresses = [\"203.0.113.77\"]\ndisk = \"web.qcow2\"\n",
    );
    assert_eq!(wrong(&facts, &routed), Vec::<String>::new());
}

#[test]
fn a_mistake_in_the_file_has_its_place_and_what_to_write() {
    let text = "[network.lan]\nprefixes = [\"203.0.113.0/24\"]\nmut = 1400\n";
    let errors = read(text, "net.toml").unwrap_err();
    let found: Vec<_> = misread(&errors).iter().map(ToString::to_string).collect();
    assert!(found[0].starts_with("configuration: net.toml:3:1: "), "{found:?}");
    assert!(found[0].contains("  -> "), "{found:?}");
}
