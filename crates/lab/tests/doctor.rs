//! `ipvisor doctor` on machines that are really wrong: each fault is named, with its cure.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use lab::command::{Finished, finish};
use lab::instance::Instance;
use lab::netns::mac;
use lab::paths;
use lab::scene::{CARD, LAN_CARD, Scene};

const WEB: &str = "[vm.web]\nengine = \"external\"\nsocket = \"web.sock\"\n";

/// A machine with a card, a LAN behind it and a file to run there.
struct Patient {
    scene: Scene,
    dir: tempfile::TempDir,
}

/// What the doctor said.
struct Told {
    end: Finished,
}

impl Told {
    fn status(&self) -> i32 {
        self.end.status.code().unwrap_or(-1)
    }

    /// This very line is among those told.
    #[track_caller]
    fn says(&self, line: &str) {
        let (said, complained) = (&self.end.stdout, &self.end.stderr);
        assert!(said.lines().any(|l| l == line), "no line\n{line}\nin\n{said}{complained}");
    }

    /// Errors were found, and these only.
    #[track_caller]
    fn errors(&self, expected: &[&str]) {
        let errors: Vec<_> = self.end.stdout.lines().filter(|l| l.starts_with("error")).collect();
        assert_eq!(errors, expected, "{}", self.end.stderr);
        assert_eq!(self.status(), i32::from(!expected.is_empty()));
    }
}

impl Patient {
    fn new(config: &str) -> Self {
        let patient = Self { scene: Scene::set().unwrap(), dir: tempfile::tempdir().unwrap() };
        // Whoever runs the doctor may read the file and make a state directory.
        fs::set_permissions(patient.dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        patient.scene.wait_settled().unwrap();
        patient.write(config);
        patient
    }

    /// With the scene's network, and VM `web` of an address on it.
    fn with_address(address: &str) -> Self {
        let patient = Self::new("");
        let network = patient.scene.network_by(None);
        patient.write(&format!("{network}{WEB}addresses = [\"{address}\"]\n"));
        patient
    }

    fn write(&self, config: &str) {
        fs::write(self.file(), config).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("net.toml")
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// The doctor, started by the program and words of `by`.
    fn doctor_by(&self, by: &[&str], more: &[&str]) -> Told {
        let (program, words) = by.split_first().unwrap_or((&"env", &[]));
        let mut command = self.scene.host.command(program);
        command.args(words).arg(paths::ipvisor().unwrap()).arg("doctor").arg(self.file());
        command.arg("--state-dir").arg(self.state()).args(more);
        Told { end: finish(&mut command).unwrap() }
    }

    fn doctor(&self) -> Told {
        self.doctor_by(&[], &[])
    }
}

/// The words of a user without any privilege.
const NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

#[test]
fn a_machine_that_is_right_is_told_so_and_nothing_is_changed() {
    let patient = Patient::with_address("203.0.113.10");
    let told = patient.doctor();
    told.errors(&[]);
    let file = patient.file();
    told.says(&format!(
        "ok       configuration: {} is right (networks: 1, VMs: 1)",
        file.display()
    ));
    told.says("ok       privileges: all that cards and the path to the host need");
    let own = mac(&patient.scene.host, CARD).unwrap().map(|o| format!("{o:02x}")).join(":");
    told.says(&format!("ok       card eth1: it is up ({own}, MTU 1500, driver veth)"));
    let router = mac(&patient.scene.outside, LAN_CARD).unwrap();
    let router = router.map(|o| format!("{o:02x}")).join(":");
    for gateway in ["203.0.113.1", "2001:db8:1::1"] {
        told.says(&format!("ok       network lan: the gateway {gateway} answers ({router})"));
    }
    assert!(!patient.state().exists());
    let left = patient.scene.host.run(&format!("tc qdisc show dev {CARD}")).unwrap();
    assert!(!left.contains("clsact"), "{left}");
    // What was found right is right: the same machine runs the same file.
    let config = fs::read_to_string(patient.file()).unwrap();
    Instance::up(&patient.scene.host, &config).unwrap().down().unwrap();
}

#[test]
fn a_card_that_is_not_there_is_named_with_those_that_are() {
    let patient = Patient::with_address("203.0.113.10");
    let config = fs::read_to_string(patient.file()).unwrap();
    patient.write(&config.replace("\"eth1\"", "\"eth7\""));
    patient.doctor().errors(&[
        "error    card eth7: there is no interface of this name; Ethernet cards here: eth1  -> \
         write one of them as `uplink` under [network.lan]",
    ]);
    patient.write(&config.replace("\"eth1\"", "\"ipv-test\""));
    patient.scene.host.run("ip tuntap add dev ipv-test mode tun").unwrap();
    patient.doctor().errors(&[
        "error    card ipv-test: it has no MAC address, and an uplink must be an Ethernet card  -> \
         write another as `uplink` under [network.lan]; there are: eth1",
    ]);
}

#[test]
fn a_card_that_is_down_or_has_no_cable_is_told_apart() {
    let patient = Patient::with_address("203.0.113.10");
    patient.scene.outside.run(&format!("ip link set {LAN_CARD} down")).unwrap();
    patient.doctor().errors(&["error    card eth1: it has no link: no cable, or nothing at the \
                               other end of it  -> plug in its cable, or turn on what is there"]);
    patient.scene.host.run(&format!("ip link set {CARD} down")).unwrap();
    patient.doctor().errors(&["error    card eth1: it is down  -> sudo ip link set eth1 up"]);
}

#[test]
fn gateways_that_are_silent_are_named_each_by_its_protocol() {
    let patient = Patient::with_address("203.0.113.10");
    for address in ["203.0.113.1/24", "2001:db8:1::1/64"] {
        patient.scene.outside.run(&format!("ip addr del {address} dev {LAN_CARD}")).unwrap();
    }
    let cure = "look at its address, and at cable, switch port and VLAN of eth1";
    let line = |gateway, protocol| {
        format!(
            "error    network lan: the gateway {gateway} does not answer {protocol} on eth1  -> {cure}"
        )
    };
    let lines = [line("203.0.113.1", "ARP"), line("2001:db8:1::1", "neighbour discovery")];
    patient.doctor().errors(&lines.each_ref().map(String::as_str));
}

#[test]
fn a_user_without_privileges_is_told_which_and_how_to_give_them() {
    let patient = Patient::with_address("203.0.113.10");
    let told = patient.doctor_by(&NOBODY, &[]);
    let program = paths::ipvisor().unwrap();
    told.errors(&[&format!(
        "error    privileges: missing: cap_net_raw, cap_net_admin, cap_bpf: no card can be used, and \
         the host and its VMs do not reach each other  -> run as root, or, for all who may run the \
         program: sudo setcap \
         cap_net_raw,cap_net_admin,cap_bpf+ep {}",
        program.display()
    )]);
    assert!(told.end.stdout.contains("nobody knows whether the gateway 203.0.113.1 answers"));
    // A network without a card needs none of them.
    let inside = "[network.inside]\nprefixes = [\"198.51.100.0/24\"]\n";
    patient.write(&format!("{inside}{WEB}addresses = [\"198.51.100.10\"]\n"));
    patient.doctor_by(&NOBODY, &[]).errors(&[]);
}

#[test]
fn an_address_that_the_host_has_is_nobody_elses() {
    let patient = Patient::with_address("203.0.113.2");
    patient.doctor().errors(&["error    vm web: its address 203.0.113.2 is the host's own, on eth1  \
                               -> sudo ip addr del 203.0.113.2/24 dev eth1, or another address for web"]);
}

#[test]
fn a_limit_of_open_files_that_is_too_low_is_told_with_what_is_needed() {
    let patient = Patient::with_address("203.0.113.10");
    // Root without the right to raise limits.
    let by = ["setpriv", "--bounding-set=-sys_resource", "prlimit", "--nofile=64:64"];
    patient.doctor_by(&by, &[]).errors(&[
        "error    open files: 64 at most in a process; needed: about 90  -> ulimit -Hn 128 as root \
         before ipvisor is started, or LimitNOFILE=128 in its unit",
    ]);
}

#[test]
fn a_machine_without_qemu_is_told_what_to_install_if_it_is_needed() {
    let patient = Patient::with_address("203.0.113.10");
    let by = ["env", "PATH=/nowhere"];
    patient.doctor_by(&by, &[]).errors(&[]);
    fs::write(patient.dir.path().join("vmlinuz"), "").unwrap();
    let network = patient.scene.network_by(None);
    let vm = "[vm.web]\nkernel = \"vmlinuz\"\nmemory = \"64M\"\naddresses = [\"203.0.113.10\"]\n";
    patient.write(&format!("{network}{vm}"));
    patient.doctor_by(&by, &[]).errors(&[
        "error    qemu: there is no qemu-system-x86_64 in PATH  -> sudo apt install qemu-system-x86",
    ]);
    patient.doctor().errors(&[]);
}

#[test]
fn devices_that_are_missing_or_forbidden_are_told_apart() {
    let patient = Patient::new(
        "[network.inside]\nprefixes = [\"198.51.100.0/24\"]\n\
         [vm.web]\ndisk = \"web.img\"\nmemory = \"64M\"\naddresses = [\"198.51.100.10\"]\n",
    );
    fs::write(patient.dir.path().join("web.img"), "").unwrap();
    // In the mount namespace that `ip netns exec` makes.
    let script = "mount -t tmpfs modules /sys/module && mkdir /sys/module/kvm_amd &&
        mount -t tmpfs dev /dev && mknod -m 600 /dev/kvm c 1 3 && mknod -m 666 /dev/null c 1 3 &&
        exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"";
    let told = patient.doctor_by(&["sh", "-c", script, "sh"], &[]);
    told.errors(&[]);
    told.says(
        "warning  kvm: kvm_amd is loaded, but this user may not use /dev/kvm: VMs run in software, \
         much slower  -> sudo usermod -aG kvm $USER, then log in again",
    );
    told.says(
        "warning  tun: there is no /dev/net/tun: the host and its VMs do not reach each other  -> \
         sudo modprobe tun",
    );
}

#[test]
fn a_state_directory_that_others_could_write_to_or_that_is_in_use_is_told() {
    let patient = Patient::with_address("203.0.113.10");
    let (state, shown) = (patient.state(), patient.state().display().to_string());
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
    patient.doctor().errors(&[&format!(
        "error    state: {shown} belongs to user 0 and has mode 777: others could replace its sockets  \
         -> chown 0 {shown} && chmod go-w {shown}, or another --state-dir"
    )]);
    fs::remove_dir(&state).unwrap();
    let config = fs::read_to_string(patient.file()).unwrap();
    let running = Instance::up(&patient.scene.host, &config).unwrap();
    let (dir, holder) = (running.state_dir(), running.holder_process().unwrap());
    let told = running.finish(&["doctor"]).unwrap();
    let line = format!(
        "warning  state: an instance runs with {} already (process {holder}): `up` would have it go \
         on with the file that is named then  -> nothing, if that is meant; for a second instance \
         beside it, another --state-dir",
        dir.display()
    );
    assert!(told.stdout.lines().any(|l| l == line), "{}", told.stdout);
    running.down().unwrap();
}

#[test]
fn a_providers_routed_addresses_are_told_from_neighbours() {
    let patient = Patient::new("");
    let network =
        patient.scene.network_by(None).replace("\"203.0.113.0/24\"", "\"198.51.100.16/28\"");
    patient.write(&format!("{network}{WEB}addresses = [\"198.51.100.18\"]\n"));
    let told = patient.doctor();
    told.errors(&[]);
    told.says(
        "warning  network lan: 198.51.100.16/28 looks routed to this machine: neither the host nor \
         the gateway has an address in it; VMs would look for its other addresses on the LAN  -> \
         write `on_link = false` under [network.lan]",
    );
    patient.write(&format!("{network}on_link = false\n{WEB}addresses = [\"198.51.100.18\"]\n"));
    assert!(!patient.doctor().end.stdout.contains("looks routed"));
    // Wider than what is on the host's link.
    let network = patient.scene.network_by(None).replace("203.0.113.0/24", "203.0.112.0/23");
    patient.write(&format!("{network}{WEB}addresses = [\"203.0.113.10\"]\n"));
    patient.doctor().says(
        "warning  network lan: 203.0.112.0/23 is on link here, says the file; on the host only \
         203.0.113.0/24 is  -> write \"203.0.113.0/24\" as its prefix under [network.lan]",
    );
}

#[test]
fn a_gateway_that_is_to_be_found_and_is_not_there_is_told() {
    let patient = Patient::with_address("203.0.113.10");
    let config = fs::read_to_string(patient.file()).unwrap();
    let auto = config.lines().filter(|line| !line.starts_with("gateway"));
    patient.write(&auto.map(|line| format!("{line}\n")).collect::<String>());
    let told = patient.doctor();
    told.errors(&[]);
    told.says(
        "warning  network lan: the host has no default route through eth1, whose router could be the \
         gateway: VMs reach their neighbours only  -> write `gateway` under [network.lan]: an \
         address, or [] for none",
    );
    patient.scene.host.run("ip route add default via 203.0.113.1").unwrap();
    assert!(patient.doctor().end.stdout.contains("the gateway 203.0.113.1 answers"));
}

#[test]
fn what_the_card_merges_is_told_and_a_larger_mtu_than_its_own_too() {
    let patient = Patient::with_address("203.0.113.10");
    patient.scene.host.run(&format!("ethtool -K {CARD} rx-udp-gro-forwarding on")).unwrap();
    let config = fs::read_to_string(patient.file()).unwrap();
    patient.write(&config.replace("[vm.web]", "mtu = 9000\n[vm.web]"));
    let told = patient.doctor();
    told.errors(&[]);
    told.says(
        "ok       card eth1: rx-udp-gro-forwarding: on, which is turned off while ipvisor uses it",
    );
    told.says(
        "warning  card eth1: its MTU is 1500, that of network lan 9000: what is larger is not sent  \
         -> sudo ip link set eth1 mtu 9000, or no `mtu` under [network.lan]",
    );
}

#[test]
fn programs_get_json_and_a_wrong_file_is_one_of_the_findings() {
    let patient = Patient::new("[network.lan]\nprefixes = [\"203.0.113.0/24\"]\nmut = 1400\n");
    let told = patient.doctor_by(&[], &["--json"]);
    assert_eq!(told.status(), 1, "{}", told.end.stderr);
    let json: serde_json::Value = serde_json::from_str(&told.end.stdout).unwrap();
    assert_eq!(json["healthy"], false);
    let first = &json["findings"][0];
    assert_eq!((&first["level"], &first["about"]), (&"error".into(), &"configuration".into()));
    assert!(first["what"].as_str().unwrap().contains("net.toml:3:1: "), "{first}");
    assert!(first["cure"].as_str().unwrap().contains("mtu"), "{first}");
    assert!(json["findings"].as_array().unwrap().iter().any(|f| f["about"] == "kernel"));
}
