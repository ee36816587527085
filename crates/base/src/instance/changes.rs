//! What another configuration would change about VMs that run and cards in use, and cannot.
//!
//! A VM that runs was formed with its processors, its memory, its disks; a front end that is attached
//! was met at its socket; a card's receive ring has the size it was made with. Everything else a base decides by itself: addresses, MTU, what guests are
//! told, restart policies, networks.

use crate::config::{Config, Engine, Machine, Socket, Vm};

/// What a VM is doing that its configuration has to allow for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// It has neither vessel nor front end: everything about it may change.
    No,
    /// It runs.
    Runs,
    /// Somebody else's front end is attached.
    Attached,
}

/// What stands in the way of `new` taking the place of `old`: a sentence for each VM or network.
pub fn in_the_way(old: &Config, new: &Config, busy: impl Fn(&str) -> Busy) -> Vec<String> {
    let mut sentences = Vec::new();
    for (name, was) in &old.networks {
        if let Some(will) = new.networks.get(name)
            && was.uplink.is_some()
            && was.uplink == will.uplink
            && was.receive_ring != will.receive_ring
        {
            sentences.push(format!(
                "network `{name}` uses its card: its receive_ring cannot change; leave it at {}, \
                 or `ipvisor down` and `ipvisor up`",
                was.receive_ring
            ));
        }
    }
    for (name, was) in &old.vms {
        let busy = busy(name);
        let (state, remedy) = match (busy, &was.engine) {
            (Busy::No, _) => continue,
            (_, Engine::Qemu(_)) => ("runs", format!("`ipvisor stop {name}` first")),
            (_, Engine::External(_)) => {
                ("has a front end attached", "end that front end first".to_owned())
            }
        };
        match new.vms.get(name) {
            // An external port that left is shut: its front end is somebody else's to end.
            None if matches!(was.engine, Engine::External(_)) => {}
            None => sentences
                .push(format!("VM `{name}` {state} and is not in the file any more; {remedy}")),
            Some(will) => {
                let fixed = fixed(was, will);
                if !fixed.is_empty() {
                    let what = fixed.join(", ");
                    sentences
                        .push(format!("VM `{name}` {state}: its {what} cannot change; {remedy}"));
                }
            }
        }
    }
    sentences
}

/// What is different and cannot be while the VM is there.
fn fixed(was: &Vm, will: &Vm) -> Vec<&'static str> {
    let mut fixed = match (&was.engine, &will.engine) {
        (Engine::Qemu(was), Engine::Qemu(will)) => machine(was, will),
        (Engine::External(was), Engine::External(will)) => socket(was, will),
        _ => vec!["engine"],
    };
    if was.network != will.network {
        fixed.push("network");
    }
    if was.mac != will.mac {
        fixed.push("MAC address");
    }
    if was.queues != will.queues {
        fixed.push("queues");
    }
    fixed
}

fn machine(was: &Machine, will: &Machine) -> Vec<&'static str> {
    let differs = [
        ("cpus", was.cpus != will.cpus),
        ("memory", was.memory != will.memory),
        ("disks", was.disks != will.disks),
        ("kernel", was.kernel != will.kernel),
        ("firmware", was.firmware != will.firmware),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(what, _)| what).collect()
}

fn socket(was: &Socket, will: &Socket) -> Vec<&'static str> {
    if was == will { Vec::new() } else { vec!["socket"] }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config;

    const OLD: &str = "\
[network.lan]
prefixes = [\"198.51.100.0/24\"]
[network.other]
prefixes = [\"203.0.113.0/24\"]
[vm.web]
kernel = \"/vmlinuz\"
engine = \"qemu\"
memory = \"256M\"
network = \"lan\"
addresses = [\"198.51.100.1\"]
[vm.port]
engine = \"external\"
socket = \"/run/port.sock\"
network = \"lan\"
addresses = [\"198.51.100.2\"]
";

    fn config(text: &str) -> Config {
        config::check_accepted(text, Path::new("/tmp/net.toml")).unwrap()
    }

    fn runs(name: &str) -> Busy {
        if name == "web" { Busy::Runs } else { Busy::Attached }
    }

    fn change(from: &str, to: &str, busy: impl Fn(&str) -> Busy) -> String {
        assert!(OLD.contains(from));
        in_the_way(&config(OLD), &config(&OLD.replace(from, to)), busy).join("\n")
    }

    #[test]
    fn what_a_running_vm_was_formed_with_cannot_change_and_the_sentence_says_what_to_do() {
        let said = change("256M", "512M\"\ncpus = 2\nmac = \"02:00:00:00:00:01", runs);
        let expected = "VM `web` runs: its cpus, memory, MAC address cannot change; \
                        `ipvisor stop web` first";
        assert_eq!(said, expected);
        assert!(change("/vmlinuz", "/other", runs).contains("its kernel cannot change"));
        let more = change("memory = \"256M\"", "memory = \"256M\"\nqueues = 2", runs);
        assert!(more.contains("its queues cannot change"));
        assert!(change("port.sock", "b.sock", runs).contains("VM `port` has a front end attached"));
        let moved = "network = \"other\"\naddresses = [\"203.0.113.2\"]";
        let from = "network = \"lan\"\naddresses = [\"198.51.100.2\"]";
        assert!(change(from, moved, runs).contains("its network cannot change"));
    }

    #[test]
    fn the_receive_ring_of_a_card_in_use_stays_as_it_is() {
        let with = |keys: &str| {
            config(&OLD.replace("[network.other]", &format!("{keys}\n[network.other]")))
        };
        let said = |old: &str, new: &str| in_the_way(&with(old), &with(new), runs).join("\n");
        let expected = "network `lan` uses its card: its receive_ring cannot change; leave it at \
                        256, or `ipvisor down` and `ipvisor up`";
        assert_eq!(said("uplink = \"eth1\"", "uplink = \"eth1\"\nreceive_ring = 512"), expected);
        assert_eq!(said("uplink = \"eth1\"", "uplink = \"eth2\"\nreceive_ring = 512"), "");
        assert_eq!(said("", "receive_ring = 512"), "");
    }

    #[test]
    fn what_does_not_run_may_change_and_so_may_what_only_the_base_decides() {
        assert_eq!(change("256M", "512M", |_| Busy::No), "");
        let told = "198.51.100.9\", \"198.51.100.10\"]\nmtu = 1400\nhostname = \"w\"\n#\"";
        assert_eq!(change("198.51.100.1\"]", told, runs), "");
        assert_eq!(change("memory", "restart = \"always\"\nmemory", runs), "");
    }

    #[test]
    fn a_vm_that_left_must_have_been_stopped_and_a_port_that_left_is_shut() {
        let mut new = config(OLD);
        new.vms.clear();
        let said = in_the_way(&config(OLD), &new, runs);
        assert_eq!(said.len(), 1, "{said:?}");
        let expected = "VM `web` runs and is not in the file any more; `ipvisor stop web` first";
        assert_eq!(said[0], expected);
    }
}
