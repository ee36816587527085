//! A checked configuration's values by key, in words that could stand in a file.
//!
//! For those who compare two configurations, and for those who read the comparison. A value that
//! the base finds out by itself is said in brackets.

use std::time::Duration;

use super::addresses;
use super::types::{
    CloneSize, Config, Disk, Driver, Engine, Firmware, Gateway, Machine, Network, Socket, Vm,
    Workers,
};

/// A key, and its value; `None`: it has none.
pub type Shown = (&'static str, Option<String>);

/// What stands outside of networks and VMs.
pub fn instance(config: &Config) -> Vec<Shown> {
    let Workers(cores) = &config.workers;
    let named: Vec<usize> = cores.iter().filter_map(|core| *core).collect();
    let workers = match named.as_slice() {
        [] => cores.len().to_string(),
        cores => format!("[{}]", list(cores).unwrap_or_default()),
    };
    vec![
        ("workers", Some(workers)),
        ("overcommit", yes(config.host.overcommit)),
        ("data_dir", or(config.host.data_dir.as_ref().map(|d| d.display()), "(the usual place)")),
    ]
}

/// Of a network, in the order of [`KEYS`](super::KEYS).
pub fn network(network: &Network) -> Vec<Shown> {
    let gateway = match network.gateway {
        Gateway::Auto => Some("auto".to_owned()),
        Gateway::Fixed { v4, v6 } => pair(v4, v6),
    };
    let driver = match network.driver {
        Driver::Auto => "auto",
        Driver::Packet => "packet",
        Driver::Xdp => "xdp",
    };
    vec![
        ("uplink", network.uplink.clone()),
        ("prefixes", list(&network.prefixes)),
        ("gateway", gateway),
        ("on_link", yes(network.on_link)),
        ("mtu", or(network.mtu, "(the uplink's)")),
        ("resolver", yes(network.resolver)),
        ("dns", list(&network.dns)),
        ("coalesce", yes(network.coalesce)),
        ("driver", Some(driver.to_owned())),
        ("receive_ring", Some(network.receive_ring.to_string())),
        ("icmp_source", pair(network.icmp_source4, network.icmp_source6)),
    ]
}

/// Of a VM, in the order of [`KEYS`](super::KEYS).
pub fn vm(vm: &Vm) -> Vec<Shown> {
    let engine = match &vm.engine {
        Engine::Qemu(_) => "qemu",
        Engine::External(_) => "external",
    };
    let addresses: Vec<String> = vm.addresses.iter().map(addresses::shown).collect();
    let mut all = vec![
        ("network", Some(vm.network.clone())),
        ("addresses", list(&addresses)),
        ("mac", or(vm.mac, "(learned)")),
        ("mtu", or(vm.mtu, "(the network's)")),
        ("queues", Some(vm.queues.to_string())),
        ("hostname", Some(vm.hostname.clone())),
        ("engine", Some(engine.to_owned())),
    ];
    match &vm.engine {
        Engine::External(Socket::Listen(path)) => {
            all.push(("socket", Some(path.display().to_string())));
        }
        Engine::External(Socket::Connect(path)) => {
            all.push(("socket", Some(format!("{{ connect = {} }}", path.display()))));
        }
        Engine::Qemu(formed) => all.extend(machine(formed)),
    }
    all
}

fn machine(machine: &Machine) -> [Shown; 14] {
    let kernel = machine.kernel.as_ref();
    let disks: Vec<String> = machine.disks.iter().map(disk).collect();
    let firmware = match machine.firmware {
        Firmware::Bios => "bios",
        Firmware::Uefi => "uefi",
    };
    let seed = machine.seed.as_ref();
    let user_data = seed.and_then(|s| Some(s.user_data.as_ref()?.display().to_string()));
    [
        ("kernel", kernel.map(|k| k.image.display().to_string())),
        ("initramfs", kernel.and_then(|k| Some(k.initramfs.as_ref()?.display().to_string()))),
        ("cmdline", kernel.map(|k| format!("\"{}\"", k.cmdline))),
        ("firmware", Some(firmware.to_owned())),
        ("disk", list(&disks)),
        ("user", seed.and_then(|s| s.user.clone())),
        ("ssh_keys", seed.and_then(|s| list(&s.ssh_keys))),
        ("user_data", user_data),
        ("cpus", Some(machine.cpus.to_string())),
        ("memory", Some(size(machine.memory))),
        ("restart", Some(machine.restart.as_str().to_owned())),
        ("autostart", yes(machine.autostart)),
        ("after", list(&machine.after)),
        ("stop_timeout", Some(time(machine.stop_timeout))),
    ]
}

fn disk(disk: &Disk) -> String {
    let readonly = if disk.readonly { " readonly" } else { "" };
    let clone = match disk.clone {
        None => String::new(),
        Some(CloneSize::AsImage) => ", a clone".to_owned(),
        Some(CloneSize::Octets(octets)) => format!(", a clone of {}", size(octets)),
    };
    format!("{} ({}{readonly}{clone})", disk.path.display(), disk.format.as_str())
}

fn yes(is: bool) -> Option<String> {
    Some(is.to_string())
}

fn or<T: ToString>(value: Option<T>, else_: &str) -> Option<String> {
    Some(value.map_or_else(|| else_.to_owned(), |v| v.to_string()))
}

fn list<T: ToString>(values: &[T]) -> Option<String> {
    let words: Vec<String> = values.iter().map(T::to_string).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

fn pair(v4: Option<impl ToString>, v6: Option<impl ToString>) -> Option<String> {
    let both: Vec<String> =
        v4.map(|a| a.to_string()).into_iter().chain(v6.map(|a| a.to_string())).collect();
    list(&both)
}

/// A size of memory, in the largest unit that leaves no fraction.
fn size(octets: u64) -> String {
    let mebi = octets >> 20;
    if mebi.is_multiple_of(1024) { format!("{}G", mebi / 1024) } else { format!("{mebi}M") }
}

/// A span of time, in the largest unit that leaves no fraction.
fn time(time: Duration) -> String {
    match time.as_millis() {
        ms if ms % 1000 != 0 => format!("{ms}ms"),
        ms if ms == 0 || ms % 60_000 != 0 => format!("{}s", ms / 1000),
        ms => format!("{}m", ms / 60_000),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{KEYS, Table, check_accepted};

    const TEXT: &str = "\
[network.lan]
uplink = \"eth1\"
prefixes = [\"203.0.113.0/24\", \"2001:db8:1::/64\"]
[vm.port]
engine = \"external\"
socket = \"/run/port.sock\"
addresses = [\"203.0.113.9\"]
[vm.web]
addresses = [\"203.0.113.10\", \"203.0.113.64/28\"]
disk = [\"/a.qcow2\", { path = \"/b\", readonly = true }]
memory = \"1536M\"
";

    #[test]
    fn every_key_is_shown() {
        let config = check_accepted(TEXT, Path::new("/etc/net.toml")).unwrap();
        let (web, port) = (vm(&config.vms["web"]), vm(&config.vms["port"]));
        let lan = network(&config.networks["lan"]);
        let names = |all: Vec<Shown>| all.into_iter().map(|(name, _)| name);
        let shown: Vec<_> = names(web).chain(names(port)).collect();
        let of = |table: Table| KEYS.iter().filter(move |k| k.table == table);
        for key in of(Table::Vm) {
            assert!(shown.contains(&key.name), "{} of a VM is not shown", key.name);
        }
        let shown: Vec<_> = names(lan).collect();
        assert_eq!(shown, of(Table::Network).map(|k| k.name).collect::<Vec<_>>());
    }

    #[test]
    fn values_look_as_in_a_file() {
        let config = check_accepted(TEXT, Path::new("/etc/net.toml")).unwrap();
        let web = vm(&config.vms["web"]);
        let value = |key: &str| web.iter().find(|(k, _)| *k == key).unwrap().1.clone();
        assert_eq!(value("addresses").unwrap(), "203.0.113.10, 203.0.113.64/28");
        assert_eq!(value("disk").unwrap(), "/a.qcow2 (qcow2), /b (raw readonly)");
        assert_eq!((value("memory").unwrap(), value("kernel")), ("1536M".to_owned(), None));
        for (millis, shown) in [(0, "0s"), (500, "500ms"), (30_000, "30s"), (120_000, "2m")] {
            assert_eq!(time(Duration::from_millis(millis)), shown);
        }
    }
}
