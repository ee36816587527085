//! Instances for the tests.

use base::control::{InstanceStatus, Ps, VmState, VmStatus, VmUsage};

/// One with these VMs.
pub fn instance(vms: Vec<VmStatus>) -> Ps {
    Ps {
        instance: InstanceStatus {
            version: "0.1.0".into(),
            holder: 10,
            base: 12,
            takeovers: 0,
            up_seconds: 200,
            config: "/etc/net.toml".into(),
            takeover: Default::default(),
            state_dir: "/run/ipvisor".into(),
        },
        networks: Vec::new(),
        vms,
    }
}

/// One that runs, has used so many milliseconds of processor time, sent so many datagrams and has so
/// many octets in memory.
pub fn vm(name: &str, cpu_milliseconds: u64, sent: u64, resident: u64) -> VmStatus {
    VmStatus {
        name: name.to_owned(),
        state: VmState::Running,
        note: None,
        engine: "qemu".into(),
        pid: Some(7),
        cpus: Some(1),
        memory: Some(512 << 20),
        network: "lan".into(),
        addresses: vec!["203.0.113.10".parse().unwrap()],
        user: None,
        mac: None,
        attached: true,
        worker: None,
        quarantine: None,
        seconds: 3,
        restarts: 0,
        usage: VmUsage {
            cpu_milliseconds: Some(cpu_milliseconds),
            resident: Some(resident),
            sent,
            ..VmUsage::default()
        },
    }
}
