//! From one configuration to another: what would change, line by line.

use std::path::Path;

use super::*;
use crate::config;

/// What all configurations of the table begin with.
const COMMON: &str = "\
[network.lan]
uplink = \"eth1\"
prefixes = [\"203.0.113.0/24\", \"2001:db8:1::/64\"]
[network.inside]
prefixes = [\"198.51.100.0/24\"]
[vm.web]
kernel = \"/vmlinuz\"
memory = \"256M\"
network = \"lan\"
addresses = [\"203.0.113.10\", \"2001:db8:1::10\"]
[vm.idle]
disk = \"/idle.qcow2\"
autostart = false
network = \"lan\"
addresses = [\"203.0.113.11\"]
[vm.port]
engine = \"external\"
socket = \"/run/port.sock\"
network = \"inside\"
addresses = [\"198.51.100.2\"]
";

fn config(text: &str) -> Config {
    config::check_accepted(text, Path::new("/etc/ipvisor/net.toml")).unwrap()
}

/// VM `web` runs, a front end is attached to `port`, `idle` was never started.
fn busy(name: &str) -> Busy {
    match name {
        "web" => Busy::Runs,
        "port" => Busy::Attached,
        _ => Busy::Fresh,
    }
}

fn lines(old: &str, new: &str, busy: impl Fn(&str) -> Busy) -> Vec<String> {
    difference(&config(old), &config(new), busy).iter().map(Change::to_string).collect()
}

/// Without the table that begins with this line.
fn without(text: &str, header: &str) -> String {
    let (before, rest) = text.split_once(header).unwrap();
    let after = rest.find("\n[").map_or("", |n| &rest[n + 1..]);
    format!("{before}{after}")
}

const PORT: &str = "\
[vm.new]
engine = \"external\"
socket = \"/run/new.sock\"
network = \"inside\"
addresses = [\"198.51.100.3\"]
";
const FORMED: &str = "\
[vm.new]
disk = \"/new.qcow2\"
network = \"inside\"
addresses = [\"198.51.100.3\"]
";

/// A name; what is replaced in the common text by what; what is told.
type Transition = (&'static str, &'static [(&'static str, &'static str)], &'static [&'static str]);

const TRANSITIONS: &[Transition] = &[
    ("nothing", &[], &[]),
    ("a comment", &[("[vm.web]", "# the web server\n[vm.web]")], &[]),
    ("a value as it was without", &[("[vm.web]", "[vm.web]\nhostname = \"web\"")], &[]),
    (
        "workers",
        &[("[network.lan]", "workers = 2\n[network.lan]")],
        &["~ instance changes: workers 1 -> 2"],
    ),
    (
        "cores",
        &[("[network.lan]", "workers = [0, 1]\n[network.lan]")],
        &["~ instance changes: workers 1 -> [0, 1]"],
    ),
    (
        "overcommit",
        &[("[network.lan]", "[host]\novercommit = true\n[network.lan]")],
        &["~ instance changes: overcommit false -> true"],
    ),
    (
        "a network's MTU",
        &[("[network.inside]", "[network.inside]\nmtu = 9000")],
        &["~ network/inside changes: mtu (the uplink's) -> 9000"],
    ),
    (
        "name servers",
        &[("[network.lan]", "[network.lan]\ndns = [\"203.0.113.53\", \"2001:db8:1::53\"]")],
        &["~ network/lan changes: dns + 203.0.113.53, + 2001:db8:1::53"],
    ),
    (
        "a gateway",
        &[("[network.lan]", "[network.lan]\ngateway = \"203.0.113.1\"")],
        &["~ network/lan changes: gateway auto -> 203.0.113.1"],
    ),
    (
        "no gateway, not on link",
        &[("[network.lan]", "[network.lan]\ngateway = []\non_link = false")],
        &["~ network/lan changes: gateway auto -> none; on_link true -> false"],
    ),
    (
        "one more prefix",
        &[("\"2001:db8:1::/64\"]", "\"2001:db8:1::/64\", \"198.51.100.77/32\"]")],
        &["~ network/lan changes: prefixes + 198.51.100.77/32"],
    ),
    (
        "another way to the card",
        &[("[network.lan]", "[network.lan]\ndriver = \"xdp\"\ncoalesce = false")],
        &["~ network/lan changes: coalesce true -> false; driver auto -> xdp"],
    ),
    (
        "another source of errors",
        &[("[network.lan]", "[network.lan]\nicmp_source = \"203.0.113.3\"")],
        &["~ network/lan changes: icmp_source none -> 203.0.113.3"],
    ),
    (
        "another card, and the ring with it",
        &[("eth1\"", "eth2\"\nreceive_ring = 512")],
        &["~ network/lan changes: uplink eth1 -> eth2; receive_ring 256 -> 512"],
    ),
    (
        "no card any more",
        &[("uplink = \"eth1\"\n", "")],
        &["~ network/lan changes: uplink eth1 -> none; gateway auto -> none"],
    ),
    (
        "the receive ring of a card in use",
        &[("[network.lan]", "[network.lan]\nreceive_ring = 512\nmtu = 1400")],
        &["! network/lan needs a restart: mtu (the uplink's) -> 1400; receive_ring 256 -> 512 \
             (it uses its card: leave it at 256, or `ipvisor down` and `ipvisor up`)"],
    ),
    (
        "the receive ring of a network without card",
        &[("[network.inside]", "[network.inside]\nreceive_ring = 512")],
        &["~ network/inside changes: receive_ring 256 -> 512"],
    ),
    (
        "a network comes",
        &[("[vm.web]", "[network.more]\nprefixes = \"192.0.2.0/24\"\n[vm.web]")],
        &["+ network/more is added"],
    ),
    (
        "an address comes",
        &[("\"203.0.113.10\"", "\"203.0.113.10\", \"203.0.113.64/28\"")],
        &["~ vm/web changes: addresses + 203.0.113.64/28"],
    ),
    (
        "an address goes and another comes",
        &[("\"2001:db8:1::10\"", "\"2001:db8:1::11\"")],
        &["~ vm/web changes: addresses + 2001:db8:1::11, - 2001:db8:1::10"],
    ),
    (
        "addresses in another order",
        &[("\"203.0.113.10\", \"2001:db8:1::10\"", "\"2001:db8:1::10\", \"203.0.113.10\"")],
        &["~ vm/web changes: addresses 203.0.113.10, 2001:db8:1::10 -> 2001:db8:1::10, \
             203.0.113.10"],
    ),
    (
        "what a guest is told",
        &[("[vm.web]", "[vm.web]\nmtu = 1400\nhostname = \"www.example\"")],
        &["~ vm/web changes: mtu (the network's) -> 1400; hostname web -> www.example"],
    ),
    (
        "how it is kept running",
        &[("[vm.web]", "[vm.web]\nrestart = \"always\"\nautostart = false\nstop_timeout = \"2m\"")],
        &["~ vm/web changes: restart never -> always; autostart true -> false; stop_timeout 30s \
             -> 2m"],
    ),
    (
        "the memory of one that runs",
        &[("256M", "512M")],
        &["! vm/web needs a restart: memory 256M -> 512M (it runs: `ipvisor stop web` first)"],
    ),
    (
        "what it was formed with, and what not",
        &[("256M\"", "256M\"\ncpus = 2\nmtu = 1400\nqueues = 2\ncmdline = \"quiet\"")],
        &["! vm/web needs a restart: mtu (the network's) -> 1400; queues 1 -> 2; cmdline \
             \"console=ttyS0\" -> \"quiet\"; cpus 1 -> 2 (it runs: `ipvisor stop web` first)"],
    ),
    (
        "the memory of one that does not run",
        &[("[vm.idle]", "[vm.idle]\nmemory = \"1G\"")],
        &["~ vm/idle changes: memory 512M -> 1G"],
    ),
    (
        "one that never ran is to be started",
        &[("autostart = false", "autostart = true")],
        &["+ vm/idle is started: autostart false -> true"],
    ),
    (
        "the socket of an attached port",
        &[("/run/port.sock", "/run/other.sock")],
        &["! vm/port needs a restart: socket /run/port.sock -> /run/other.sock (it has a front \
             end attached: end that front end first)"],
    ),
    (
        "another network for an attached port",
        &[("network = \"inside\"", "network = \"lan\""), ("\"198.51.100.2\"", "\"203.0.113.12\"")],
        &["! vm/port needs a restart: network inside -> lan; addresses 198.51.100.2 -> \
             203.0.113.12 (it has a front end attached: end that front end first)"],
    ),
    (
        "the MAC address of an attached port",
        &[("[vm.port]", "[vm.port]\nmac = \"02:00:00:00:00:01\"")],
        &["! vm/port needs a restart: mac (learned) -> 02:00:00:00:00:01 (it has a front end \
             attached: end that front end first)"],
    ),
    (
        "somebody else runs what the base ran",
        &[(
            "kernel = \"/vmlinuz\"\nmemory = \"256M\"",
            "engine = \"external\"\nsocket = \"/run/web.sock\"\nmac = \"02:00:00:00:00:02\"",
        )],
        &["! vm/web needs a restart: mac 06:70:c8:51:d1:fc -> 02:00:00:00:00:02; engine qemu -> \
             external (it runs: `ipvisor stop web` first)"],
    ),
    (
        "two at once",
        &[("256M", "512M"), ("[network.inside]", "[network.inside]\nmtu = 9000")],
        &[
            "~ network/inside changes: mtu (the uplink's) -> 9000",
            "! vm/web needs a restart: memory 256M -> 512M (it runs: `ipvisor stop web` first)",
        ],
    ),
];

#[test]
fn every_transition_is_told_as_in_the_table() {
    assert!(TRANSITIONS.len() >= 30, "{}", TRANSITIONS.len());
    for (name, replaced, expected) in TRANSITIONS {
        let mut new = COMMON.to_owned();
        for (from, to) in *replaced {
            assert!(new.contains(from), "{name}: no {from}");
            new = new.replacen(from, to, 1);
        }
        assert_eq!(lines(COMMON, &new, busy), *expected, "{name}");
    }
}

#[test]
fn vms_and_networks_that_come_and_go_are_told_by_what_becomes_of_them() {
    let with = |more: &str| format!("{COMMON}{more}");
    let told = |old: &str, new: &str| lines(old, new, busy);
    assert_eq!(told(COMMON, &with(PORT)), ["+ vm/new gets its port"]);
    assert_eq!(told(&with(PORT), COMMON), ["- vm/new loses its port"]);
    assert_eq!(told(COMMON, &with(FORMED)), ["+ vm/new is started"]);
    let not_yet = FORMED.replace("disk", "autostart = false\ndisk");
    assert_eq!(told(COMMON, &with(&not_yet)), ["+ vm/new is added, and not started"]);
    assert_eq!(told(&with(FORMED), COMMON), ["- vm/new is removed"]);
    assert_eq!(told(COMMON, &without(COMMON, "[vm.port]")), ["- vm/port loses its port"]);
    let gone = told(COMMON, &without(COMMON, "[vm.web]"));
    assert_eq!(gone, ["! vm/web is removed (it runs: `ipvisor stop web` first)"]);
    let alone = without(&without(COMMON, "[vm.port]"), "[network.inside]");
    assert_eq!(told(COMMON, &alone), ["- network/inside is removed", "- vm/port loses its port"]);
}

#[test]
fn what_does_not_run_may_change_in_any_way() {
    let new = COMMON.replace("256M", "512M").replace("port.sock", "other.sock");
    let told = lines(COMMON, &new, |_| Busy::No);
    let expected = [
        "~ vm/port changes: socket /run/port.sock -> /run/other.sock",
        "~ vm/web changes: memory 256M -> 512M",
    ];
    assert_eq!(told, expected);
    let formed = "kernel = \"/vmlinuz\"\nnetwork = \"inside\"";
    let new = COMMON.replace(
        "engine = \"external\"\nsocket = \"/run/port.sock\"\nnetwork = \"inside\"",
        formed,
    );
    let told = lines(COMMON, &new, |_| Busy::No);
    assert!(told[0].starts_with("+ vm/port is started: mac (learned) -> 06:"), "{told:?}");
}

#[test]
fn an_instance_that_begins_adds_everything_that_there_is() {
    let told: Vec<_> = beginning(&config(COMMON)).iter().map(Change::to_string).collect();
    let expected = [
        "+ network/inside is added",
        "+ network/lan is added",
        "+ vm/idle is added, and not started",
        "+ vm/port gets its port",
        "+ vm/web is started",
    ];
    assert_eq!(told, expected);
}

#[test]
fn an_obstacle_is_a_sentence_that_names_the_fixed_keys_alone() {
    let new = COMMON.replace("256M\"", "512M\"\ncpus = 2\nmtu = 1400");
    let told = difference(&config(COMMON), &config(&new), busy);
    let sentences: Vec<_> = told.iter().filter_map(Change::obstacle).collect();
    let expected = "VM `web` runs: its cpus, memory cannot change; `ipvisor stop web` first";
    assert_eq!(sentences, [expected]);
    let told = difference(&config(COMMON), &config(&without(COMMON, "[vm.web]")), busy);
    let expected = "VM `web` runs and is not in the file any more; `ipvisor stop web` first";
    assert_eq!(told[0].obstacle().unwrap(), expected);
    let ring = COMMON.replace("[network.lan]", "[network.lan]\nreceive_ring = 512");
    let told = difference(&config(COMMON), &config(&ring), busy);
    let expected = "network `lan` uses its card: its receive_ring cannot change; leave it at 256, \
                    or `ipvisor down` and `ipvisor up`";
    assert_eq!(told[0].obstacle().unwrap(), expected);
}

#[test]
fn programs_read_what_was_written_for_them() {
    let told = difference(&config(COMMON), &config(&COMMON.replace("256M", "512M")), busy);
    let line = serde_json::to_string(&told).unwrap();
    let expected = r#"[{"subject":"vm/web","what":"restart","keys":[{"key":"memory","from":"256M","to":"512M","fixed":true}],"in_the_way":{"why":"runs","remedy":"`ipvisor stop web` first"}}]"#;
    assert_eq!(line, expected);
    assert_eq!(serde_json::from_str::<Vec<Change>>(&line).unwrap(), told);
}
