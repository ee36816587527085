//! Checks of what this user may: capabilities, programs in the kernel, limits.

use super::facts::{Device, capability};
use super::{Case, Finding, has_card, mib};
use crate::config::{Driver, Engine};

/// Descriptors of a process that has no network and no VM.
const FILES: u64 = 64;
/// Those of a network: the card's sockets, its maps, the host's device.
const FILES_PER_NETWORK: u64 = 10;
/// Those of AF_XDP on a card with as many receive queues as are served, and a few more.
const FILES_OF_XDP: u64 = 68;
/// Those of a port: its door, its connection, the pieces of its memory.
const FILES_PER_PORT: u64 = 10;
/// Those of a queue pair: three for each of two rings.
const FILES_PER_PAIR: u64 = 6;
/// Those of a VM that is formed: its memory, its process, console and monitor, and what is open while
/// it is started.
const FILES_PER_VM: u64 = 8;

/// Octets of the frames that AF_XDP sends from, and of one that it receives into.
const XDP_OUTWARD: u64 = 8 << 20;
const XDP_FRAMES: u64 = 8 * 4096;

pub(super) fn capabilities(case: &Case<'_>) -> Vec<Finding> {
    let facts = case.facts;
    let bpf = facts.may(capability::BPF) || facts.may(capability::SYS_ADMIN);
    let has = [
        ("cap_net_raw", facts.may(capability::NET_RAW)),
        ("cap_net_admin", facts.may(capability::NET_ADMIN)),
        ("cap_bpf", bpf),
    ];
    let missing: Vec<_> = has.iter().filter(|(_, has)| !has).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return vec![Finding::ok("privileges", "all that cards and the path to the host need")];
    }
    let lost = match has_card(case.config) || case.config.is_none() {
        true => "no card can be used, and the host and its VMs do not reach each other",
        false => "the host and its VMs do not reach each other",
    };
    let what = format!("missing: {}: {lost}", missing.join(", "));
    let program = facts.program.display();
    let cure = format!(
        "run as root, or, for all who may run the program: sudo setcap \
         cap_net_raw,cap_net_admin,cap_bpf+ep {program}"
    );
    vec![Finding::bad(case.missing(|c| has_card(Some(c))), "privileges", what, cure)]
}

pub(super) fn programs(case: &Case<'_>) -> Vec<Finding> {
    let facts = case.facts;
    if !case.uses_cards() {
        return vec![Finding::ok("bpf", "not needed: no network has a card")];
    }
    match &facts.programs {
        Ok(()) => vec![Finding::ok(
            "bpf",
            "the kernel takes the programs that share a card (whatever \
             kernel.unprivileged_bpf_disabled says)",
        )],
        // Said already.
        Err(_) if !facts.may(capability::BPF) || !facts.may(capability::NET_ADMIN) => Vec::new(),
        Err(why) => {
            let cure = "run ipvisor on the host itself, not in a container, and on a kernel with \
                        CONFIG_BPF_SYSCALL and CONFIG_NET_CLS_BPF";
            vec![Finding::bad(case.missing(|_| true), "bpf", why, cure)]
        }
    }
}

pub(super) fn tun(case: &Case<'_>) -> Vec<Finding> {
    let (what, cure) = match case.facts.tun {
        Device::Usable => return vec![Finding::ok("tun", "/dev/net/tun can be used")],
        Device::Missing => ("there is no /dev/net/tun", "sudo modprobe tun"),
        Device::Denied => ("this user may not use /dev/net/tun", "sudo chmod 666 /dev/net/tun"),
    };
    let what = format!("{what}: the host and its VMs do not reach each other");
    vec![Finding::warning("tun", what, cure)]
}

pub(super) fn modules(case: &Case<'_>) -> Vec<Finding> {
    let missing = case.facts.modules.iter().filter(|(_, there)| !**there).map(|(name, _)| *name);
    let missing: Vec<_> = missing.collect();
    if missing.is_empty() {
        return match case.facts.modules.is_empty() {
            true => Vec::new(),
            false => vec![Finding::ok("modules", "the kernel has tun, sch_ingress and cls_bpf")],
        };
    }
    let what = format!("the kernel lacks {}", missing.join(", "));
    let cure = "sudo apt install linux-image-amd64, then start that kernel";
    vec![Finding::bad(case.missing(|c| has_card(Some(c))), "modules", what, cure)]
}

pub(super) fn open_files(case: &Case<'_>) -> Vec<Finding> {
    let needed = case.config.map_or(FILES, |config| {
        let networks = config.networks.values().map(|network| match network.driver {
            Driver::Xdp => FILES_PER_NETWORK.saturating_add(FILES_OF_XDP),
            Driver::Auto | Driver::Packet => FILES_PER_NETWORK,
        });
        let vms = config.vms.values().map(|vm| {
            let pairs = u64::try_from(vm.queues).unwrap_or(u64::MAX).saturating_mul(FILES_PER_PAIR);
            let own = if matches!(vm.engine, Engine::Qemu(_)) { FILES_PER_VM } else { 0 };
            FILES_PER_PORT.saturating_add(pairs).saturating_add(own)
        });
        networks.chain(vms).fold(FILES, u64::saturating_add)
    });
    let have = case.facts.open_files;
    let what = format!("{have} at most in a process; needed: about {needed}");
    if needed <= have {
        return vec![Finding::ok("open files", what)];
    }
    let more = needed.next_power_of_two();
    let cure = format!(
        "ulimit -Hn {more} as root before ipvisor is started, or LimitNOFILE={more} in its unit"
    );
    vec![Finding::error("open files", what, cure)]
}

pub(super) fn locked_memory(case: &Case<'_>) -> Vec<Finding> {
    let by_xdp = case.carded().filter(|(_, network, _)| network.driver == Driver::Xdp);
    let needed = by_xdp.fold(0u64, |sum, (_, network, _)| {
        let frames = u64::from(network.receive_ring).saturating_mul(XDP_FRAMES);
        sum.saturating_add(frames).saturating_add(XDP_OUTWARD)
    });
    if needed == 0 {
        return vec![Finding::ok("locked memory", "no limit matters: AF_XDP is not asked for")];
    }
    let what = match case.facts.lockable {
        Some(most) if needed > most && !case.facts.may(capability::IPC_LOCK) => {
            let what = format!(
                "a process may lock {}, AF_XDP needs {}: a packet socket carries the datagrams",
                mib(most),
                mib(needed)
            );
            let cure = "ulimit -l unlimited as root before ipvisor is started, or \
                        LimitMEMLOCK=infinity in its unit";
            return vec![Finding::warning("locked memory", what, cure)];
        }
        _ => format!("AF_XDP needs {}, and may have it", mib(needed)),
    };
    vec![Finding::ok("locked memory", what)]
}

pub(super) fn forwarding(_: &Case<'_>) -> Vec<Finding> {
    let what = "not needed: datagrams of VMs do not pass the host's stack, so ip_forward, rp_filter \
                and the firewall's rules for forwarding may be as they like";
    vec![Finding::ok("forwarding", what)]
}
