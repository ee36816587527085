//! Checks of the machine itself: kernel, processors, memory, QEMU.

use super::facts::Device;
use super::{Case, Finding, Level, mib};

/// The oldest kernel that ipvisor is tested on.
const OLDEST: (u32, u32) = (6, 1);
/// From this one on AF_XDP is used; see `cards`.
pub(super) const FOR_XDP: (u32, u32) = (6, 4);

/// What running in software means.
const SLOW: &str = "VMs run in software, much slower";

/// Major and minor number of a kernel's release.
pub(super) fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

pub(super) fn kernel(case: &Case<'_>) -> Vec<Finding> {
    let release = &case.facts.release;
    let is = format!("Linux {release}");
    vec![match version(release) {
        Some(version) if version < OLDEST => {
            let what = format!("{is} is older than what ipvisor is tested on, 6.1");
            Finding::warning("kernel", what, "install a newer kernel: Debian 12 has 6.1")
        }
        _ => Finding::ok("kernel", is),
    }]
}

pub(super) fn kvm(case: &Case<'_>) -> Vec<Finding> {
    if !case.forms() {
        return vec![Finding::ok("kvm", "not needed: no VM of the configuration is run here")];
    }
    let kvm = &case.facts.kvm;
    let (what, cure) = match (kvm.module, kvm.device) {
        (Some(module), Device::Usable) => {
            let what = format!("{module} is loaded, and this user may use /dev/kvm");
            return vec![Finding::ok("kvm", what)];
        }
        (Some(module), Device::Denied) => (
            format!("{module} is loaded, but this user may not use /dev/kvm: {SLOW}"),
            "sudo usermod -aG kvm $USER, then log in again".to_owned(),
        ),
        (Some(module), Device::Missing) => (
            format!("{module} is loaded, but there is no /dev/kvm here: {SLOW}"),
            "give this container the device /dev/kvm".to_owned(),
        ),
        (None, device) => match kvm.wanted {
            Some(module) => (
                format!("the processor could, but {module} is not loaded: {SLOW}"),
                format!("sudo modprobe {module}"),
            ),
            None => (
                match device {
                    Device::Missing => format!("the processor shows no VT-x or AMD-V: {SLOW}"),
                    _ => format!(
                        "/dev/kvm is there, but neither kvm_intel nor kvm_amd, which ordinary \
                         guests need: {SLOW}"
                    ),
                },
                match kvm.nested {
                    true => "turn on nested virtualisation where this machine, a VM, is run",
                    false => "turn on VT-x or AMD-V in the firmware's set-up",
                }
                .to_owned(),
            ),
        },
    };
    vec![Finding::warning("kvm", what, cure)]
}

pub(super) fn qemu(case: &Case<'_>) -> Vec<Finding> {
    if !case.forms() {
        return vec![Finding::ok("qemu", "not needed: no VM of the configuration is run here")];
    }
    let level = case.missing(|_| true);
    let Some(qemu) = &case.facts.qemu else {
        let what = "there is no qemu-system-x86_64 in PATH";
        return vec![Finding::bad(level, "qemu", what, "sudo apt install qemu-system-x86")];
    };
    if qemu.lacks.is_empty() {
        return vec![Finding::ok("qemu", format!("{}, with its firmware", qemu.version))];
    }
    let what = format!("{} lacks firmware: {}", qemu.version, qemu.lacks.join(", "));
    let cure = "sudo apt install --reinstall seabios qemu-system-data";
    vec![Finding::bad(level, "qemu", what, cure)]
}

/// What `up` gives of something, over all VMs that it starts.
fn given(case: &Case<'_>, of: impl Fn(&crate::config::Machine) -> u64) -> u64 {
    let started = case.formed().filter(|(_, machine)| machine.autostart);
    started.map(|(_, machine)| of(machine)).fold(0, u64::saturating_add)
}

fn overcommits(case: &Case<'_>) -> bool {
    case.config.is_some_and(|config| config.host.overcommit)
}

const GIVE_LESS: &str = "give the VMs less, or write `overcommit = true` under [host]";

pub(super) fn cpus(case: &Case<'_>) -> Vec<Finding> {
    let has = u64::from(case.facts.capacity.cpus);
    let wanted = given(case, |machine| machine.cpus.into());
    let what = format!("the machine has {has}, the VMs are given {wanted}");
    vec![if wanted <= has {
        Finding::ok("cpus", what)
    } else if overcommits(case) {
        Finding::ok("cpus", format!("{what}: more than there are, as `overcommit` allows"))
    } else {
        Finding::error("cpus", what, GIVE_LESS)
    }]
}

pub(super) fn memory(case: &Case<'_>) -> Vec<Finding> {
    let (has, free) = (case.facts.capacity.memory, case.facts.available);
    let wanted = given(case, |machine| machine.memory);
    let what = format!(
        "the machine has {}, {} of it free; the VMs are given {}",
        mib(has),
        mib(free),
        mib(wanted)
    );
    let level = match (wanted > has, wanted > free) {
        (true, _) if !overcommits(case) => Level::Error,
        (true, _) | (_, true) => Level::Warning,
        _ => return vec![Finding::ok("memory", what)],
    };
    let cure = match level {
        Level::Error => GIVE_LESS,
        _ => "give the VMs less, or end something else: without memory the kernel ends programs",
    };
    vec![Finding::bad(level, "memory", what, cure)]
}

pub(super) fn huge_pages(case: &Case<'_>) -> Vec<Finding> {
    let huge = case.facts.huge;
    if huge == 0 {
        return vec![Finding::ok("huge pages", "none are set aside, and none are needed")];
    }
    let what = format!("{} are set aside for them, which VMs do not use", mib(huge));
    vec![Finding::warning("huge pages", what, "sudo sysctl vm.nr_hugepages=0")]
}
