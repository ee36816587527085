//! `ps`: the instance, its networks, its VMs.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, Write};

use base::control::{NetworkStatus, Ps, VmState, VmStatus};
use comfy_table::{Cell, Color};

use super::table::{table, text};
use super::units::{memory, number, per_second, percent, rounded, span};
use crate::rates::Rates;

/// Shows all of it, with the VMs' rates as far as they are known.
pub fn ps(ps: &Ps, rates: &BTreeMap<String, Rates>) -> io::Result<()> {
    write!(anstream::stdout(), "{}", render(ps, rates))
}

fn render(ps: &Ps, rates: &BTreeMap<String, Rates>) -> String {
    let instance = &ps.instance;
    let mut out = format!(
        "ipvisor {}, up {}, {} (holder {}, base {}{})\n",
        instance.version,
        span(instance.up_seconds),
        instance.config.display(),
        instance.holder,
        instance.base,
        match usize::try_from(instance.takeovers) {
            Ok(0) => String::new(),
            Ok(n) => format!(", {}", number(n, "takeover")),
            Err(_) => String::new(),
        },
    );
    if !ps.networks.is_empty() {
        let mut networks = table(&["NETWORK", "CARD", "LINK", "MTU", "GATEWAY", "HOST"]);
        networks.add_rows(ps.networks.iter().map(network));
        out.push_str(&format!("\n{}\n", text(&networks)));
    }
    if !ps.vms.is_empty() {
        let mut columns = vec![
            "VM",
            "STATE",
            "FOR",
            "ENGINE",
            "CPUS",
            "MEMORY",
            "NETWORK",
            "ADDRESSES",
            "MAC",
            "PORT",
        ];
        if ps.vms.iter().any(|vm| vm.worker.is_some()) {
            columns.push("WORKER");
        }
        let mut vms = table(&columns);
        vms.add_rows(ps.vms.iter().map(vm));
        out.push_str(&format!("\n{}\n", text(&vms)));
        let mut uses = table(&["VM", "CPU", "IN MEMORY", "OUT", "IN", "OUT/S", "IN/S", "DROPPED"]);
        uses.add_rows(ps.vms.iter().map(|vm| usage(vm, rates.get(&vm.name))));
        out.push_str(&format!("\n{}\n", text(&uses)));
    }
    let notes: Vec<_> = ps
        .networks
        .iter()
        .filter_map(|n| {
            Some(format!("network {}: no path to the host: {}", n.name, n.no_host_path.as_ref()?))
        })
        .chain(ps.vms.iter().filter_map(|v| Some(format!("{}: {}", v.name, v.note.as_ref()?))))
        .chain(ps.vms.iter().filter_map(|v| {
            let (name, why) = (&v.name, v.quarantine.as_ref()?);
            Some(format!(
                "{name}: its port is quarantined: {why}; `ipvisor port reset {name}` frees it"
            ))
        }))
        .collect();
    if !notes.is_empty() {
        out.push_str(&format!("\n{}\n", notes.join("\n")));
    }
    out
}

fn network(network: &NetworkStatus) -> Vec<Cell> {
    let uplink = network.uplink.as_ref();
    let link = match uplink.map(|u| u.link_up) {
        Some(true) => Cell::new("up").fg(Color::Green),
        Some(false) => Cell::new("down").fg(Color::Red),
        None => none(),
    };
    vec![
        Cell::new(&network.name),
        or_none(uplink.map(|u| &u.device)),
        link,
        or_none(uplink.map(|u| u.mtu)),
        or_none(uplink.filter(|u| !u.gateways.is_empty()).map(|u| lines(&u.gateways))),
        or_none(network.host_device.as_ref()),
    ]
}

fn vm(vm: &VmStatus) -> Vec<Cell> {
    let colour = match vm.state {
        VmState::Running => Some(Color::Green),
        VmState::Failed => Some(Color::Red),
        VmState::Starting | VmState::Stopping | VmState::Waiting => Some(Color::Yellow),
        VmState::Stopped | VmState::External => None,
    };
    let state = Cell::new(vm.state.word());
    let port = match (&vm.quarantine, vm.attached) {
        (Some(_), _) => Cell::new("quarantined").fg(Color::Red),
        (None, true) => Cell::new("attached"),
        (None, false) => Cell::new("waiting"),
    };
    let mut cells = vec![
        Cell::new(&vm.name),
        match colour {
            Some(colour) => state.fg(colour),
            None => state,
        },
        // Of one that has no process and waits for none there is nothing to count.
        or_none((vm.pid.is_some() || vm.seconds > 0).then(|| span(vm.seconds))),
        Cell::new(&vm.engine),
        or_none(vm.cpus),
        or_none(vm.memory.map(memory)),
        Cell::new(&vm.network),
        or_none((!vm.addresses.is_empty()).then(|| lines(&vm.addresses))),
        or_none(vm.mac.as_ref()),
        port,
    ];
    cells.extend(vm.worker.map(Cell::new));
    cells
}

/// What it uses now, and has carried so far.
fn usage(vm: &VmStatus, rates: Option<&Rates>) -> Vec<Cell> {
    let usage = &vm.usage;
    vec![
        Cell::new(&vm.name),
        or_none(rates.and_then(|r| r.cpu).map(percent)),
        or_none(usage.resident.map(rounded)),
        Cell::new(usage.sent),
        Cell::new(usage.received),
        or_none(rates.map(|r| per_second(r.sent))),
        or_none(rates.map(|r| per_second(r.received))),
        Cell::new(usage.dropped),
    ]
}

fn lines<T: Display>(values: &[T]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn or_none<T: Display>(value: Option<T>) -> Cell {
    value.map_or_else(none, |v| Cell::new(v))
}

fn none() -> Cell {
    Cell::new("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::control::{InstanceStatus, UplinkStatus, VmUsage};

    #[test]
    fn the_worker_of_each_port_is_shown_where_there_are_several() {
        let mut ps = example();
        assert!(!render(&ps, &BTreeMap::new()).contains("WORKER"));
        ps.vms[0].worker = Some(1);
        let shown = render(&ps, &BTreeMap::new());
        let lines: Vec<_> = shown.lines().filter(|l| l.contains("quarantined")).collect();
        assert!(shown.contains("PORT         WORKER"), "{shown}");
        assert!(lines[0].ends_with("quarantined  1"), "{shown}");
    }

    fn example() -> Ps {
        let address = |a: &str| a.parse().unwrap();
        Ps {
            instance: InstanceStatus {
                version: "0.1.0".into(),
                holder: 10,
                base: 12,
                takeovers: 1,
                up_seconds: 200,
                config: "/etc/net.toml".into(),
                takeover: Default::default(),
                state_dir: "/run/ipvisor".into(),
            },
            networks: vec![NetworkStatus {
                name: "lan".into(),
                uplink: Some(UplinkStatus {
                    device: "eth1".into(),
                    mac: None,
                    link_up: true,
                    mtu: 1500,
                    gateways: vec![address("203.0.113.1")],
                }),
                host_device: None,
                no_host_path: Some("CAP_NET_ADMIN is missing".into()),
            }],
            vms: vec![VmStatus {
                name: "web".into(),
                state: VmState::Waiting,
                note: Some("ended with status 1, started again in 8 s".into()),
                engine: "qemu".into(),
                pid: None,
                cpus: Some(2),
                memory: Some(512 << 20),
                network: "lan".into(),
                addresses: vec![address("203.0.113.10"), address("2001:db8:1::10")],
                user: None,
                mac: None,
                attached: false,
                worker: None,
                quarantine: Some("the base died twice".into()),
                seconds: 3,
                restarts: 1,
                usage: VmUsage {
                    resident: Some(209_715_200),
                    sent: 1200,
                    received: 7,
                    dropped: 2,
                    ..VmUsage::default()
                },
            }],
        }
    }

    #[test]
    fn all_that_runs_is_shown_with_what_is_wrong_below() {
        let rates = Rates { cpu: Some(0.126), sent: 1532.4, received: 0.0, dropped: 0.0 };
        let shown = render(&example(), &BTreeMap::from([("web".to_owned(), rates)]));
        let expected = "\
ipvisor 0.1.0, up 3 min, /etc/net.toml (holder 10, base 12, 1 takeover)

NETWORK  CARD  LINK  MTU   GATEWAY      HOST
lan      eth1  up    1500  203.0.113.1  -

VM   STATE    FOR  ENGINE  CPUS  MEMORY  NETWORK  ADDRESSES       MAC  PORT
web  waiting  3 s  qemu    2     512M    lan      203.0.113.10    -    quarantined
                                                  2001:db8:1::10

VM   CPU   IN MEMORY  OUT   IN  OUT/S  IN/S  DROPPED
web  13 %  200M       1200  7   1532   0     2

network lan: no path to the host: CAP_NET_ADMIN is missing
web: ended with status 1, started again in 8 s
web: its port is quarantined: the base died twice; `ipvisor port reset web` frees it
";
        assert_eq!(shown, expected);
        // Asked once only, or of a VM that has just come: no rates.
        assert!(render(&example(), &BTreeMap::new()).contains("web  -    200M       1200  7   -"));
    }
}
