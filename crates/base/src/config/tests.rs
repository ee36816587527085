//! What a person sees for each mistake, and what a right file becomes.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

mod order;
mod several;
mod wrong;

/// Files that exist wherever one looks, except for names that begin with `missing`.
struct Everywhere;

impl Files for Everywhere {
    fn look(&self, path: &Path) -> io::Result<Found> {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        match name {
            n if n.starts_with("missing") => Err(io::ErrorKind::NotFound.into()),
            n if n.starts_with("secret") => Err(io::ErrorKind::PermissionDenied.into()),
            n if n.starts_with("dir") => Ok(Found::Directory),
            n if n.starts_with("sda") => Ok(Found::BlockDevice([0; 4])),
            n if n.contains("qcow2") => Ok(Found::File(*b"QFI\xfb")),
            _ => Ok(Found::File([0; 4])),
        }
    }

    fn list(&self, _: &Path) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }
}

fn read(text: &str) -> Result<Config, ConfigErrors> {
    let against = Against { files: &Everywhere, present: None, environment: &|_| None };
    check_with(text, Path::new("/etc/ipvisor/net.toml"), &against).map(|(_, config)| config)
}

/// A network and a VM, right in themselves, with lines added to each.
fn file(network: &str, vm: &str) -> String {
    let mut text = String::from("[network.lan]\n");
    for (key, line) in [
        ("prefixes", "prefixes = [\"203.0.113.0/24\", \"2001:db8:1::/64\"]\n"),
        ("uplink", "uplink = \"eth1\"\n"),
    ] {
        if !network.contains(key) {
            text.push_str(line);
        }
    }
    text.push_str(&format!("{network}\n[vm.web]\n"));
    for (key, line) in
        [("addresses", "addresses = [\"203.0.113.10\"]\n"), ("disk", "disk = \"web.qcow2\"\n")]
    {
        let needed = key != "disk" || !vm.contains("external");
        if needed && !vm.contains(key) {
            text.push_str(line);
        }
    }
    text.push_str(vm);
    text.push('\n');
    text
}

/// The mistakes of a file, each as "line: message / help".
fn mistakes(text: &str) -> Vec<String> {
    let errors = match read(text) {
        Ok(config) => panic!("nothing was found wrong with\n{text}\n{config:?}"),
        Err(errors) => errors,
    };
    assert!(!errors.to_string().is_empty());
    let line = |m| errors.position(m).map_or(0, |(line, _)| line);
    errors
        .mistakes()
        .iter()
        .map(|m| format!("{}: {} / {}", line(m), m.message, m.help.clone().unwrap_or_default()))
        .collect()
}

/// A VM for others to start after.
const DB: &str = "[vm.db]\naddresses = [\"203.0.113.11\"]\ndisk = \"db.qcow2\"\n";

/// The only mistake of a file.
fn mistake(text: &str) -> String {
    let mut all = mistakes(text);
    assert_eq!(all.len(), 1, "{all:#?}\n{text}");
    all.remove(0)
}

#[test]
fn the_example_of_the_design_becomes_what_it_says() {
    let config = read(
        r#"
[network.lan]
uplink   = "eth1"
prefixes = ["203.0.113.0/24", "2001:db8:1::/64"]
gateway  = ["203.0.113.1", "fe80::1"]

[vm.web]
disk      = ["web.qcow2"]
cpus      = 2
memory    = "512M"
addresses = ["203.0.113.10", "2001:db8:1::10", "203.0.113.64/28"]
"#,
    )
    .unwrap();
    let lan = &config.networks["lan"];
    assert_eq!(lan.uplink.as_deref(), Some("eth1"));
    assert_eq!(
        lan.gateway,
        Gateway::Fixed {
            v4: Some("203.0.113.1".parse().unwrap()),
            v6: Some("fe80::1".parse().unwrap())
        }
    );
    assert_eq!((lan.on_link, lan.coalesce, lan.mtu), (true, true, None));
    assert_eq!((lan.receive_ring, lan.driver), (256, Driver::Auto));
    let web = &config.vms["web"];
    assert_eq!((web.network.as_str(), web.hostname.as_str()), ("lan", "web"));
    assert_eq!(web.mac, Some(mac_of("lan", "web")));
    let all = |a: Vec<String>| a.join(" ");
    assert_eq!(all(web.addresses4().map(|a| a.to_string()).collect()), "203.0.113.10");
    assert_eq!(all(web.addresses6().map(|a| a.to_string()).collect()), "2001:db8:1::10");
    assert_eq!(all(web.prefixes4().map(|a| a.to_string()).collect()), "203.0.113.64/28");
    let Engine::Qemu(machine) = &web.engine else { panic!("{web:?}") };
    assert_eq!((machine.cpus, machine.memory), (2, 512 << 20));
    assert_eq!(machine.disks[0].path, Path::new("/etc/ipvisor/web.qcow2"));
    assert_eq!(machine.disks[0].format, DiskFormat::Qcow2);
    assert_eq!((machine.restart, machine.autostart), (Restart::Never, true));
    assert_eq!(machine.stop_timeout, Duration::from_secs(30));
    let inside: IpAddr = "203.0.113.7".parse().unwrap();
    assert_eq!(lan.prefix_of(inside), Some("203.0.113.0/24".parse().unwrap()));
}

#[test]
fn a_vm_with_a_clone_and_a_seed_becomes_what_it_says() {
    let vm = "disk = [{ image = \"base.qcow2\", size = \"20G\" }, \"data.img\"]\n\
              firmware = \"uefi\"\nuser = \"admin\"\nuser_data = \"web.yaml\"\n\
              ssh_keys = [\" ssh-ed25519 AAAAC3Nz a b \", \"sk-ssh-ed25519@openssh.com AAAA\"]\n";
    let config = read(&format!("[host]\ndata_dir = \"data\"\n{}", file("", vm))).unwrap();
    assert_eq!(config.host.data_dir.as_deref(), Some(Path::new("/etc/ipvisor/data")));
    let Engine::Qemu(machine) = &config.vms["web"].engine else { panic!() };
    let [clone, data] = &machine.disks[..] else { panic!("{machine:?}") };
    assert_eq!(clone.path, Path::new("/etc/ipvisor/base.qcow2"));
    assert_eq!((clone.format, clone.clone), (DiskFormat::Qcow2, Some(CloneSize::Octets(20 << 30))));
    assert_eq!((clone.only_read(), data.only_read(), data.clone), (true, false, None));
    assert_eq!(machine.firmware, Firmware::Uefi);
    let seed = machine.seed.as_ref().unwrap();
    assert_eq!(seed.user.as_deref(), Some("admin"));
    assert_eq!(seed.ssh_keys[0], "ssh-ed25519 AAAAC3Nz a b");
    assert_eq!(seed.user_data.as_deref(), Some(Path::new("/etc/ipvisor/web.yaml")));

    let plain = read(&file("", "disk = { image = \"a\" }\nhostname = \"web\"")).unwrap();
    let Engine::Qemu(machine) = &plain.vms["web"].engine else { panic!() };
    assert_eq!(machine.disks[0].clone, Some(CloneSize::AsImage));
    assert_eq!((machine.firmware, &machine.seed), (Firmware::Bios, &None));
}

#[test]
fn external_vms_meet_the_base_at_a_socket_of_either_side() {
    let text = file("", "engine = \"external\"\nsocket = \"run/web.sock\"");
    let config = read(&text).unwrap();
    let listen = Engine::External(Socket::Listen("/etc/ipvisor/run/web.sock".into()));
    assert_eq!((&config.vms["web"].engine, config.vms["web"].mac), (&listen, None));
    let text = file("", "engine = \"external\"\nsocket = { connect = \"/run/web.sock\" }");
    let connect = Engine::External(Socket::Connect("/run/web.sock".into()));
    assert_eq!(read(&text).unwrap().vms["web"].engine, connect);
}

#[test]
fn a_network_without_uplink_is_private_and_has_no_gateway() {
    let text = "[network.a]\nprefixes = \"203.0.113.0/24\"\n";
    let a = &read(text).unwrap().networks["a"];
    assert_eq!((&a.uplink, a.gateway), (&None, Gateway::NONE));
    assert_eq!(read(&file("", "")).unwrap().networks["lan"].gateway, Gateway::Auto);
    let none = read(&file("gateway = []", "")).unwrap();
    assert_eq!(none.networks["lan"].gateway, Gateway::NONE);
}

#[test]
fn a_routed_single_address_is_a_prefix_of_its_own() {
    let network = "prefixes = [\"203.0.113.0/24\", \"198.51.100.77/32\"]\non_link = false\n\
                   gateway = \"203.0.113.1\"";
    assert!(read(&file(network, "addresses = \"198.51.100.77\"")).is_ok());
    let help = mistake(&file("", "addresses = \"198.51.100.77\""));
    assert!(help.contains("lies in no prefix of network `lan`"), "{help}");
    assert!(help.contains("add \"198.51.100.77/32\" to the prefixes"), "{help}");
}

/// Lines added to the network, lines added to the VM, and what the only mistake says.
const SINGLE: &[(&str, &str, &str)] = &[
    ("", "memroy = \"1G\"", "there is no `memroy` in VM `web` / did you mean `memory`?"),
    ("", "ram = \"1G\"", "did you mean `memory`? As in `memory = \"2G\"`"),
    ("", "colour = 1", "there is no `colour` in VM `web` / [vm.NAME] can have: network,"),
    ("", "gateway = \"auto\"", "`gateway` belongs in [network.NAME]"),
    ("", "cpus = \"two\"", "`cpus` cannot be \"two\" / it must be a whole number from 1 to 255"),
    ("", "cpus = 0", "`cpus` is too little / from 1 to 255"),
    ("", "cpus = 99999999999999999999", "`cpus` is too much / from 1 to 255"),
    ("", "memory = 512", "`512` is not a size of memory / say the unit: \"512M\" or \"512G\""),
    ("", "memory = true", "`memory` cannot be true or false / it must be a size with its unit"),
    ("", "stop_timeout = 30", "say the unit: \"30s\""),
    ("", "restart = \"sometimes\"", "\"no\", \"on-failure\" or \"always\""),
    ("", "engine = \"kvm\"", "the built-in engine \"kvm\" is not in this version"),
    ("", "engine = \"xen\"", "there is no engine `xen`"),
    ("", "engine = \"external\"\nsocket = {}", "the socket of VM `web` has no `connect`"),
    ("", "engine = \"external\"", "VM `web` has no `socket`"),
    ("", "socket = \"x\"", "`socket` is for VMs that somebody else runs"),
    ("", "engine = \"external\"\nsocket = \"s\"\ncpus = 2", "no meaning for an external VM"),
    ("", "engine = \"external\"\nsocket = { conect = \"s\" }", "did you mean `connect`?"),
    ("", "disk = \"missing.img\"", "paths are relative to the configuration's directory, /etc/"),
    ("", "disk = \"dir\"", "is neither a file nor a block device"),
    ("", "disk = \"qcow2.img\"", "say which: { path = \"qcow2.img\", format = \"qcow2\" }, or"),
    ("", "disk = \"plain.QCOW2\"", "is not a qcow2 image"),
    ("", "disk = [\"a.raw\", \"a.raw\"]", "the same disk a second time"),
    ("", "disk = { path = \"a\", format = \"vmdk\" }", "there is no format `vmdk`"),
    ("", "disk = []", "VM `web` has nothing to start from"),
    ("", "disk = { format = \"raw\" }", "has no `path`"),
    ("", "disk = { path = \"a\", image = \"b\" }", "`image` beside `path`"),
    ("", "disk = { path = \"a\", size = \"1G\" }", "`size` without `image`"),
    ("", "disk = { image = \"a\", size = 20 }", "say the unit: \"20M\" or \"20G\""),
    ("", "disk = { image = \"a\", readonly = true }", "a clone is there to be written to"),
    ("", "disk = { image = \"qcow2.img\" }", "{ image = \"qcow2.img\", format = \"qcow2\" }"),
    ("", "firmware = \"ovmf\"", "there is no firmware `ovmf` / it must be \"bios\" or \"uefi\""),
    ("", "kernel = \"k\"\nfirmware = \"bios\"", "`firmware` beside `kernel`"),
    ("", "user = \"Über\"", "is not a user's name"),
    ("", "ssh_keys = \"~/.ssh/id.pub\"", "this is not a public SSH key"),
    ("", "user_data = \"dir\"", "is not a file"),
    ("", "engine = \"external\"\nsocket = \"s\"\nuser = \"a\"", "no meaning for an external VM"),
    ("", "kernel = \"secret\"", "whoever runs `ipvisor up` must be allowed to read it"),
    ("", "kernel = \"dir\"", "is not a file"),
    ("", "initramfs = \"i\"", "`initramfs` without `kernel`"),
    ("", "kernel = \"k\"\ncmdline = \"a\\nb\"", "a command line is one line"),
    ("", "mac = \"01:00:00:00:00:01\"", "belongs to a group"),
    ("", "mac = \"02:69:70:76:00:01\"", "is the base's own"),
    ("", "mac = \"2:0:0:0:0:1\"", "is not a MAC address / a MAC address is six pairs"),
    ("", "queues = 0", "`queues`"),
    ("", "queues = 9", "`queues`"),
    ("", "mq = true", "did you mean `queues`?"),
    ("", "hostname = \"a_b\"", "`a_b` is not a host name"),
    ("", "network = \"lam\"", "there is no network `lam` / did you mean \"lan\"?"),
    ("", "addresses = []", "VM `web` has no address"),
    ("", "addresses = [\"203.0.113.10\", \"203.0.113.10\"]", "203.0.113.10 is there twice"),
    ("", "addresses = \"203.0.113.0\"", "is the name of the network, no host's"),
    ("", "addresses = \"203.0.113.255\"", "is its broadcast address"),
    ("", "addresses = \"2001:db8:1::\"", "is every router's"),
    ("", "addresses = \"203.0.113.10/24\"", "write \"203.0.113.10\" for the one address, or"),
    ("", "addresses = \"224.0.0.1\"", "224.0.0.0/4 are multicast groups"),
    ("", "addresses = 5", "`addresses` cannot be a whole number"),
    ("", "addresses = \"2001:db8:1::1\"\nmtu = 1000", "an MTU of 1000 is too little for IPv6"),
    ("gateway = \"203.0.113.10\"", "", "203.0.113.10 is the gateway of network `lan`"),
    (
        "gateway = \"203.0.113.65\"",
        "addresses = \"203.0.113.64/28\"",
        "the gateway 203.0.113.65 of network `lan` lies in 203.0.113.64/28",
    ),
    ("gateway = [\"203.0.113.1\", \"203.0.113.2\"]", "", "has a second IPv4 address"),
    ("gateway = \"203.0.113.1/24\"", "", "write it without the prefix length: \"203.0.113.1\""),
    ("gateway = \"203.0.113.0\"", "", "203.0.113.0 is no router"),
    ("gateway = 1", "", "`gateway` cannot have a whole number in it"),
    ("prefixes = [\"203.0.113.0/24\", \"203.0.113.0/25\"]", "", "and 203.0.113.0/25 overlap"),
    ("prefixes = \"203.0.113.1/24\"", "", "write \"203.0.113.0/24\""),
    ("prefixes = []", "", "a network without prefixes has no addresses"),
    ("mtu = 1000", "", "`mtu` is too little / from 1280 to 65535"),
    ("mtu = 70000", "", "`mtu` is too much / from 1280 to 65535"),
    ("receive_ring = 63", "", "`receive_ring` is too little / from 64 to 16384"),
    ("receive_ring = 16385", "", "`receive_ring` is too much / from 64 to 16384"),
    ("uplink = \"lo\"", "", "`lo` leads to nobody"),
    ("uplink = \"eth 1\"", "", "cannot be the name of a network interface"),
    ("dns = \"0.0.0.0\"", "", "`0.0.0.0` is nobody's address"),
    ("icmp_source = \"224.0.0.1\"", "", "`224.0.0.1` cannot be a source"),
    ("bridge = \"br0\"", "", "did you mean `uplink`?"),
    ("on_link = \"no\"", "", "`on_link` cannot be \"no\" / it must be true or false"),
];

#[test]
fn each_mistake_is_named_once_with_what_to_write_instead() {
    for (network, vm, expected) in SINGLE {
        let found = mistake(&file(network, vm));
        assert!(found.contains(expected), "expected: {expected}\nfound: {found}");
    }
}

#[test]
fn mistakes_of_whole_files_are_named_too() {
    for (text, expected) in [
        ("", "has neither networks nor VMs"),
        ("x = ", "1: this is not TOML"),
        ("vm = 1", "`vm` cannot be a whole number / write it as a table with a name: [vm.NAME]"),
        ("[vms.a]\n", "did you mean [vm.NAME]?"),
        ("overcommit = true\n", "`overcommit` belongs in [host]"),
        ("[vm]\nmemory = \"1G\"\n", "`memory` stands in no [vm.NAME] / give it a name"),
        ("[network.\"a b\"]\nprefixes = \"203.0.113.0/24\"\n", "characters that a name cannot"),
        ("[network.a]\nuplink = \"eth1\"\n", "network `a` has no `prefixes`"),
        (
            "[network.a]\nprefixes = \"203.0.113.0/24\"\ngateway = \"auto\"\n",
            "has a gateway but no uplink",
        ),
        ("[vm.a]\naddresses = \"203.0.113.1\"\ndisk = \"d\"\n", "VM `a` has no network"),
    ] {
        let found = mistake(text);
        assert!(found.contains(expected), "{found}");
    }
}

#[test]
fn nothing_is_given_to_two_vms() {
    let two = |network: &str, web: &str, db: &str| {
        format!("{}[vm.db]\n{db}", file(network, &format!("{web}\n")))
    };
    let external = "engine = \"external\"\nsocket = \"s\"";
    for (web, db, expected) in [
        ("", "addresses = \"203.0.113.10\"\ndisk = \"d\"\n", "VM `db` has 203.0.113.10 too"),
        (
            "",
            "addresses = \"203.0.113.0/28\"\ndisk = \"d\"\n",
            "VM `db` has a prefix around 203.0.113.10 too",
        ),
        ("disk = \"d\"", "addresses = \"203.0.113.11\"\ndisk = \"d\"\n", "this disk is VM `"),
        (
            "mac = \"02:00:00:00:00:01\"",
            "addresses = \"203.0.113.11\"\ndisk = \"d\"\nmac = \"02:00:00:00:00:01\"\n",
            "02:00:00:00:00:01 is another VM's too",
        ),
        (
            external,
            "addresses = \"203.0.113.11\"\nengine = \"external\"\nsocket = \"./s\"\n",
            "this socket is another VM's too",
        ),
    ] {
        let found = mistake(&two("", web, db));
        assert!(found.contains(expected) || found.contains("VM `web` has 203"), "{found}");
    }
    let readonly = "disk = { path = \"d\", readonly = true }\n";
    let other = format!("addresses = \"203.0.113.11\"\n{readonly}");
    assert!(read(&two("", readonly, &other)).is_ok());
    let clone = "disk = { image = \"d\" }\n";
    let other = format!("addresses = \"203.0.113.11\"\n{clone}");
    assert!(read(&two("", clone, &other)).is_ok());
    assert!(read(&two("", readonly, &other)).is_ok());
    let found = mistake(&two("", "disk = \"d\"", &other));
    assert!(found.contains("this disk is VM `"), "{found}");
    // A VM may have a prefix and, within it, the address that DHCP gives it.
    assert!(read(&file("", "addresses = [\"203.0.113.64/28\", \"203.0.113.65\"]")).is_ok());
}

#[test]
fn networks_are_apart_but_share_no_card() {
    let network = |name: &str, card: &str| {
        format!("[network.{name}]\nuplink = \"{card}\"\nprefixes = \"203.0.113.0/24\"\n")
    };
    let vm = |name: &str, rest: &str| {
        format!("[vm.{name}]\naddresses = \"203.0.113.10\"\ndisk = \"{name}\"\n{rest}\n")
    };
    let apart = network("a", "eth1") + &network("b", "eth2");
    let both = vm("x", "network = \"a\"") + &vm("y", "network = \"b\"");
    let config = read(&(apart.clone() + &both)).unwrap();
    assert_ne!(config.vms["x"].mac, config.vms["y"].mac);
    let found = mistake(&(apart + &vm("x", "")));
    assert!(found.contains("does not say its network / add `network = \"...\"`, one of: a, b"));
    let shared = network("a", "eth1") + &network("b", "eth1");
    assert!(mistake(&shared).contains("`eth1` is the uplink of two networks"));
}

#[test]
fn all_mistakes_are_found_in_one_look_with_their_lines() {
    let text = "[network.lan]\nprefixes = [\"203.0.113.0/24\", \"nonsense\"]\nmtu = 1\n\n\
                [vm.web]\nadresses = [\"203.0.113.10\"]\nmemory = 512\ndisk = \"missing\"\n";
    let lines: Vec<usize> =
        mistakes(text).iter().map(|m| m.split(':').next().unwrap().parse().unwrap()).collect();
    assert_eq!(lines, [2, 3, 6, 7, 8]);
}

#[test]
fn a_mistake_is_shown_as_the_document_of_a_compiler_would() {
    let errors = read(&file("", "memroy = \"1G\"")).unwrap_err();
    let expected = "\
error: there is no `memroy` in VM `web`
 --> /etc/ipvisor/net.toml:8:1
  |
8 | memroy = \"1G\"
  | ^^^^^^
  |
  = help: did you mean `memory`? As in `memory = \"2G\"`";
    assert_eq!(errors.to_string(), expected);
}

#[test]
fn more_than_an_instance_can_hold_is_refused() {
    let mut text = String::from("[network.a]\nprefixes = \"2001:db8::/64\"\n");
    for i in 1..=1025 {
        text.push_str(&format!("[vm.v{i}]\naddresses = \"2001:db8::{i:x}\"\ndisk = \"d{i}\"\n"));
    }
    let found = mistake(&text);
    assert!(found.contains("the configuration has 1025 VMs / one instance can have 1024"));
    assert!(mistake(&" ".repeat(LONGEST + 1)).contains("longer than"));
}

#[test]
fn an_unreadable_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("net.toml");
    let shown = load(&path).unwrap_err().to_string();
    assert!(shown.contains("cannot read the configuration") && shown.contains("net.toml"));
    std::fs::write(&path, b"\xff\xfe").unwrap();
    assert!(load(&path).unwrap_err().to_string().contains("is not text"));
    std::fs::write(&path, "[network.a]\nprefixes = \"203.0.113.0/24\"\n").unwrap();
    assert!(load(&path).unwrap().1.networks.contains_key("a"));
}

#[test]
fn the_largest_and_worst_files_are_refused_in_little_time() {
    let long = |line: &dyn Fn(usize) -> String| {
        let mut text = String::from("[network.n]\nprefixes = \"2001:db8::/32\"\n[vm.x]\n");
        (0..)
            .map(line)
            .take_while(|l| {
                text.push_str(l);
                text.len() + 80 < LONGEST
            })
            .count();
        text
    };
    for text in [
        long(&|i| format!("memor{i} = 1\n")),
        long(&|i| format!("[vm.v{i}]\n")),
        long(&|i| format!("[network.n{i}]\n")),
        "[".repeat(LONGEST),
        format!("a = {}", "[".repeat(LONGEST - 4)),
        format!("a = {}", "{b=".repeat(LONGEST / 3 - 2)),
        format!("[vm.x]\naddresses = [{}]", "\"::\",".repeat(LONGEST / 5 - 10)),
        "a.".repeat(LONGEST / 2),
        "\u{feff}[vm.x]\n\"".to_owned(),
        format!("x = \"{}\"", "\u{1b}".repeat(1000)),
    ] {
        let began = std::time::Instant::now();
        let shown = read(&text).unwrap_err().to_string();
        let took = began.elapsed();
        assert!(took < Duration::from_secs(60), "{took:?}: {text:.100}");
        assert!(shown.len() < 100_000, "{}: {text:.100}", shown.len());
    }
}

/// The document beside this code.
const DOCUMENT: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md"));

#[test]
fn the_document_lists_exactly_the_keys_that_exist() {
    let rows: Vec<String> =
        DOCUMENT.lines().filter(|l| l.starts_with("| `")).map(str::to_owned).collect();
    let keys: Vec<String> = KEYS.iter().map(Key::row).collect();
    assert_eq!(rows.join("\n"), keys.join("\n"), "docs/configuration.md, tables of keys");
    let mut headings = DOCUMENT.lines().filter_map(|l| l.strip_prefix("## `"));
    for table in Table::ALL {
        assert_eq!(headings.next(), Some(format!("{table}`").as_str()));
    }
}

#[test]
fn every_example_of_the_document_is_a_right_configuration() {
    let examples: Vec<&str> =
        DOCUMENT.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(examples.len() >= 3);
    for example in examples {
        if let Err(errors) = read(example) {
            panic!("{errors}");
        }
    }
}

#[test]
fn workers_are_a_number_or_the_cores_that_they_keep_to() {
    let workers = |line: &str| read(&format!("{line}\n{}", file("", ""))).unwrap().workers.0;
    assert_eq!(workers(""), [None]);
    assert_eq!(workers("workers = 2"), [None, None]);
    assert_eq!(workers("workers = [2, 3]"), [Some(2), Some(3)]);
    for (wrong, why) in [
        ("0", "there must be a worker"),
        ("-1", "there must be a worker"),
        ("[]", "there must be a worker"),
        ("9", "there can be 8 workers at most"),
        ("[0, 1, 2, 3, 4, 5, 6, 7, 8]", "there can be 8 workers at most"),
        ("[1, 1]", "core 1 is listed twice"),
        ("[-1]", "a core is a whole number from 0 to 1023"),
        ("[\"a\"]", "a core is a whole number from 0 to 1023"),
        ("true", "`workers` cannot be true or false"),
    ] {
        let found = mistake(&format!("workers = {wrong}\n{}", file("", "")));
        assert!(found.contains(why), "{wrong}: {found}");
    }
    let found = mistake(&format!("[host]\nworkers = 2\n{}", file("", "")));
    assert!(found.contains("the top of the file"), "{found}");
}

#[test]
fn every_listed_key_is_read_and_its_example_is_right() {
    for key in KEYS {
        // A date is never right: whoever reads the key says so, and who does not calls it unknown.
        let line = |value: &str| format!("{} = {value}", key.name);
        let whole = |line: String| match key.table {
            Table::File => format!("{line}\n{}", file("", "")),
            Table::Host => format!("[host]\n{line}\n{}", file("", "")),
            Table::Network => file(&line, ""),
            Table::Vm if key.name == "network" => file("", &line),
            Table::Vm if key.name == "socket" => {
                file("", &format!("engine = \"external\"\n{line}"))
            }
            Table::Vm if matches!(key.name, "initramfs" | "cmdline") => {
                file("", &format!("kernel = \"k\"\n{line}"))
            }
            Table::Vm if key.name == "after" => format!("{}{DB}", file("", &line)),
            Table::Vm => file("", &line),
            Table::Disk if matches!(key.name, "path" | "image") => {
                file("", &format!("disk = {{ {line} }}"))
            }
            Table::Disk if key.name == "size" => {
                file("", &format!("disk = {{ image = \"a.qcow2\", {line} }}"))
            }
            Table::Disk => file("", &format!("disk = {{ path = \"a.qcow2\", {line} }}")),
            Table::Socket => file("", &format!("engine = \"external\"\nsocket = {{ {line} }}")),
        };
        if let Err(errors) = read(&whole(line(key.example))) {
            panic!("{errors}");
        }
        let found = mistake(&whole(line("1979-05-27")));
        assert!(found.contains(&format!("`{}` cannot", key.name)), "{found}");
    }
}

#[test]
fn an_accepted_configuration_is_read_again_although_its_files_are_gone() {
    let text = file("", "disk = [\"missing.qcow2\", \"missing\"]\nkernel = \"missing\"");
    let path = Path::new("/etc/ipvisor/net.toml");
    assert!(read(&text).is_err());
    let Engine::Qemu(machine) = &check_accepted(&text, path).unwrap().vms["web"].engine else {
        panic!()
    };
    let formats: Vec<DiskFormat> = machine.disks.iter().map(|d| d.format).collect();
    assert_eq!(formats, [DiskFormat::Qcow2, DiskFormat::Raw]);
}

/// Pieces that configurations are made of, right and wrong ones.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        proptest::sample::select(KEYS).prop_map(|k| format!("{} = {}\n", k.name, k.example)),
        proptest::sample::select(KEYS).prop_map(|k| format!("{} = ", k.name)),
        proptest::sample::select(vec![
            "[network.a]\n",
            "[network.b]\n",
            "[vm.x]\n",
            "[vm.y]\n",
            "[host]\n",
            "[",
            "]",
            "{",
            "}",
            "\"",
            "=",
            ",",
            "\n",
            "[[vm.x]]\n",
            "203.0.113.10",
            "/24",
            "\u{1b}[2J",
            "é",
            "disk = [{ path = \"a\" }]\n",
            "1979-05-27",
            "-1",
            "1e400",
            "\r\n",
            "'''",
            "\u{0}",
        ])
        .prop_map(str::to_owned),
        any::<String>(),
    ];
    proptest::collection::vec(piece, 0..20).prop_map(|p| p.concat())
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic_and_every_refusal_can_be_shown(text in pieces()) {
        if let Err(errors) = read(&text) {
            prop_assert!(!errors.mistakes().is_empty());
            prop_assert!(!errors.to_string().chars().any(|c| c.is_control() && c != '\n' && c != '\t'));
        }
    }
}
