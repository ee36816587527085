//! Every key that a configuration can have: the one list that the reader, its error messages and
//! `docs/configuration.md` share.
//!
//! # Theory of operation
//! The reader asks for keys by name; what it did not ask for is unknown. Tests hold the three
//! together: every key listed here is asked for, every key asked for is listed here, and the
//! tables of the document are exactly [`KEYS`].

use std::fmt;

/// A table of the file that keys stand in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// No table: above all tables.
    File,
    /// `[host]`
    Host,
    /// `[network.NAME]`
    Network,
    /// `[vm.NAME]`
    Vm,
    /// `{ ... }` in the list `disk`.
    Disk,
    /// `{ ... }` as `socket`.
    Socket,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::File, Self::Host, Self::Network, Self::Vm, Self::Disk, Self::Socket];
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "the top of the file",
            Self::Host => "[host]",
            Self::Network => "[network.NAME]",
            Self::Vm => "[vm.NAME]",
            Self::Disk => "disk = [{ ... }]",
            Self::Socket => "socket = { ... }",
        })
    }
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Where it stands.
    pub table: Table,
    /// Its name.
    pub name: &'static str,
    /// What its value must be, in words that continue "must be".
    pub form: &'static str,
    /// What holds without it.
    pub default: &'static str,
    /// What it does.
    pub meaning: &'static str,
    /// A value, as written in the file.
    pub example: &'static str,
    /// Names by which people look for it.
    pub aliases: &'static [&'static str],
}

const fn key(
    table: Table,
    name: &'static str,
    form: &'static str,
    default: &'static str,
    example: &'static str,
    meaning: &'static str,
) -> Key {
    Key { table, name, form, default, meaning, example, aliases: &[] }
}

impl Key {
    const fn also(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    /// The line of the document's table.
    pub fn row(&self) -> String {
        let Self { name, form, default, example, meaning, .. } = self;
        format!("| `{name}` | {form} | {default} | `{example}` | {meaning} |")
    }
}

/// Every key, in the order of the document.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key(Table::File, "workers", "a whole number from 1 to 8, or a list of cores", "1", "[2, 3]",
        "How many threads carry datagrams, or the cores that they keep to, one each. A VM's port belongs to one of them: first to the one that has fewest, then to whom `ipvisor port move` gives it.")
        .also(&["worker", "threads", "cores", "cpus"]),
    key(Table::File, "include", "a list of files and patterns", "none", "\"vm.d/*.toml\"",
        "Further files, read as if they stood in this one; a pattern (one `*`, in the file's name) names all that it fits, sorted by name.")
        .also(&["includes", "import", "imports", "files"]),

    key(Table::Host, "overcommit", "true or false", "false", "true",
        "Whether VMs may be given more CPUs and memory than the machine has. Disks and addresses are never given twice."),
    key(Table::Host, "data_dir", "a path", "`/var/lib/ipvisor`; not as root: `ipvisor` in `$XDG_DATA_HOME`, else in `~/.local/share`", "\"/srv/ipvisor\"",
        "Where the VMs keep what must outlast them and the machine's own restart, in `vm/NAME`: disks that are clones, the variables of UEFI firmware. Instances that run beside each other with VMs of the same name need a directory each.")
        .also(&["data", "storage", "directory"]),

    key(Table::Network, "uplink", "the name of a network interface", "none: a private network, without a way out", "\"eth1\"",
        "The adapter card that carries the network's datagrams out. The host may go on using it. A card belongs to one network.")
        .also(&["interface", "nic", "card", "device", "dev", "bridge", "parent", "port"]),
    key(Table::Network, "prefixes", "a list of IP prefixes", "required", "[\"203.0.113.0/24\", \"2001:db8:1::/64\"]",
        "Where the network's addresses lie. Every address of a VM lies in one of them; an address that a provider routes to this machine is a prefix of its own (`203.0.113.77/32`). They do not overlap.")
        .also(&["subnet", "subnets", "network", "cidr", "prefix"]),
    key(Table::Network, "gateway", "\"auto\", or a list with one IPv4 and one IPv6 address at most", "\"auto\" with an uplink, else none", "[\"203.0.113.1\", \"fe80::1\"]",
        "The LAN's router. `auto`: the host's own default routes through the uplink, as far as it has any. It may lie outside the prefixes. `[]`: none.")
        .also(&["router", "gateways", "default", "via"]),
    key(Table::Network, "on_link", "true or false", "true", "false",
        "Whether other hosts of the prefixes are neighbours on the LAN. `false`: everything but the VMs themselves is reached through the gateway."),
    key(Table::Network, "mtu", "a whole number from 1280 (576 without IPv6) to 65535", "the uplink's own; 1500 without uplink", "9000",
        "Octets of the largest IP datagram."),
    key(Table::Network, "resolver", "true or false", "true", "false",
        "Whether the base answers DNS on the guests' links, at 169.254.0.1 and fe80::1: the VMs' names itself, all others by asking `dns`. Guests are then told of no other name server, and of the network's name as their search domain.")
        .also(&["names", "resolve", "nameservice"]),
    key(Table::Network, "dns", "a list of IP addresses", "with `resolver` the host's own (/etc/resolv.conf), in a private network none; without it none", "[\"203.0.113.53\", \"2001:db8:1::53\"]",
        "Name servers. With `resolver`: whom the base asks, from the host's own addresses. With `resolver = false`: whom guests are told of.")
        .also(&["nameserver", "nameservers", "resolvers"]),
    key(Table::Network, "coalesce", "true or false", "true", "false",
        "Whether the host kernel may merge TCP segments that arrive on the uplink. `false`: every datagram arrives as it was on the wire, at the price of speed.")
        .also(&["gro"]),
    key(Table::Network, "driver", "\"auto\", \"packet\" or \"xdp\"", "\"auto\"", "\"xdp\"",
        "How the uplink is reached. `packet`: by a packet socket, whatever the card. `xdp`: the VMs' datagrams by AF_XDP, past the kernel's stack, as far as kernel and card can; the rest, and everything where they cannot, by a packet socket. `auto`: as `packet`, for now.")
        .also(&["mode", "backend", "af_xdp"]),
    key(Table::Network, "receive_ring", "a whole number from 64 to 16384", "256", "2048",
        "Frames that may wait while the base is busy, or dead: the card's receive ring, made when the card is first used. 15 frames take 1 MiB of memory that is never swapped out (256: 18 MiB, 2048: 137 MiB), because each may be a merged one of 64 KiB.")
        .also(&["ring", "rx_ring", "ring_size", "queue", "frames"]),
    key(Table::Network, "icmp_source", "a list with one IPv4 and one IPv6 address at most", "the host's own addresses on the uplink; without any 192.0.0.8 and fe80::1", "[\"203.0.113.2\", \"2001:db8:1::2\"]",
        "The source of ICMP errors that the base sends."),

    key(Table::Vm, "network", "the name of a network", "the only network, if there is one only", "\"lan\"",
        "The network that the VM is on.")
        .also(&["net", "networks"]),
    key(Table::Vm, "addresses", "a list of IP addresses and whole prefixes", "required", "[\"203.0.113.10\", \"2001:db8:1::10\", \"203.0.113.64/28\"]",
        "The VM's own: it receives what is sent to them and may send from no other. DHCP gives the first single address of each family; a prefix is routed to the VM as a whole.")
        .also(&["address", "ip", "ips", "ip4", "ip6", "ipv4", "ipv6"]),
    key(Table::Vm, "mac", "a MAC address", "made from the names of network and VM; `external`: learned from its first frame", "\"02:00:00:00:00:01\"",
        "The MAC address of the VM's network card. Nobody outside ever sees it. A learned one is kept until `down`: write it where another front end, with another address, may come.")
        .also(&["hwaddr", "ethernet"]),
    key(Table::Vm, "mtu", "a whole number from 1280 (576 without IPv6) to 65535", "the network's", "1400",
        "Octets of the largest datagram that the VM is told to send."),
    key(Table::Vm, "queues", "a whole number from 1 to 8", "1", "4",
        "How many of its CPUs can send and receive at the same time: queue pairs of its network card, at most. The guest's driver decides how many it uses: Linux one for each CPU, so more than `cpus` are allowed and of no use. Connections are spread over them; each stays on one, so what belongs together stays in order. One worker serves them all. A front end that somebody else starts may use fewer; Cloud Hypervisor, beyond one pair, counts rings, and needs as many here as it has of those (its `num_queues`).")
        .also(&["queue", "num_queues", "multiqueue", "mq"]),
    key(Table::Vm, "hostname", "a host name", "the VM's name", "\"web.example\"",
        "The name that DHCP gives, and cloud-init where it is told anything.")
        .also(&["name"]),
    key(Table::Vm, "engine", "\"auto\", \"qemu\" or \"external\"", "\"auto\"", "\"qemu\"",
        "Who runs it. `qemu`: the base starts QEMU, on KVM where the machine can, else in software. `auto`: the base picks. `external`: somebody else's vhost-user front end comes to `socket`; the base carries its datagrams and does not form it.")
        .also(&["type", "hypervisor", "driver"]),
    key(Table::Vm, "socket", "a path, or { connect = PATH }", "required with `external`, not allowed else", "\"run/web.sock\"",
        "Where an external front end and the base meet. A path: the base listens there. `{ connect = PATH }`: the front end listens, the base connects."),
    key(Table::Vm, "kernel", "a path", "none: the firmware starts the first disk", "\"vmlinuz\"",
        "A kernel to start directly: bzImage, or an uncompressed vmlinux with a PVH entry (starts faster without KVM).")
        .also(&["vmlinuz", "vmlinux"]),
    key(Table::Vm, "initramfs", "a path", "none", "\"initrd.img\"",
        "The initial file system of `kernel`.")
        .also(&["initrd"]),
    key(Table::Vm, "cmdline", "a text", "\"console=ttyS0\"", "\"console=ttyS0 root=/dev/vda1\"",
        "The command line of `kernel`. Without `console=ttyS0` in it, the console shows nothing.")
        .also(&["append", "args"]),
    key(Table::Vm, "firmware", "\"bios\" or \"uefi\"", "\"bios\"", "\"uefi\"",
        "What starts the first disk where there is no `kernel`. `bios`: SeaBIOS, which comes with QEMU. `uefi`: OVMF (Debian: `apt install ovmf`), without secure boot; its variables are kept in `data_dir`.")
        .also(&["bios", "uefi", "ovmf", "loader"]),
    key(Table::Vm, "disk", "a list of paths, { path, format, readonly } or { image, size }", "none", "[\"web.qcow2\"]",
        "Disks, in the order the guest finds them. `.qcow2` is qcow2, everything else is raw unless `format` says so.")
        .also(&["disks", "image", "images", "drive", "volume"]),
    key(Table::Vm, "user", "a user's name", "the image's own", "\"admin\"",
        "For a guest with cloud-init: the account that it makes, and that `ssh_keys` are for.")
        .also(&["username", "login", "account"]),
    key(Table::Vm, "ssh_keys", "a list of public keys", "none", "[\"ssh-ed25519 AAAAC3Nz admin@example\"]",
        "For a guest with cloud-init: who may log in by SSH. Each as it stands in a `.pub` file.")
        .also(&["ssh_key", "keys", "authorized_keys", "ssh_authorized_keys"]),
    key(Table::Vm, "user_data", "a path", "none", "\"web.yaml\"",
        "For a guest with cloud-init: a file that it is given as user data, as it is.")
        .also(&["userdata", "cloud_init", "cloud_config"]),
    key(Table::Vm, "cpus", "a whole number from 1 to 255", "1", "2",
        "Virtual CPUs.")
        .also(&["cpu", "vcpu", "cores", "smp"]),
    key(Table::Vm, "memory", "a size with its unit, M or G", "\"512M\"", "\"2G\"",
        "Memory. M is 1024 × 1024 octets, G is 1024 M.")
        .also(&["mem", "ram"]),
    key(Table::Vm, "restart", "\"never\" or \"no\", \"on-failure\", or \"always\"", "\"never\"", "\"on-failure\"",
        "What follows when it ends by itself. A guest that powers itself off has not failed. The first restart waits 1 s, each further one twice as long, up to 60 s; 60 s of running begin anew. Who was stopped by `ipvisor stop` stays stopped."),
    key(Table::Vm, "autostart", "true or false", "true", "false",
        "Whether `ipvisor up` starts it.")
        .also(&["onboot", "boot"]),
    key(Table::Vm, "after", "a list of names of VMs", "none", "[\"db\"]",
        "Those that `up` lets run first, and that `down` stops later. They run when their processes answer and their guests' drivers have started their network cards; more under \"Start and stop\" below.")
        .also(&["depends_on", "depends", "requires", "wants", "start_after", "order"]),
    key(Table::Vm, "stop_timeout", "a time with its unit: ms, s or m", "\"30s\"", "\"2m\"",
        "How long the guest has, after its power button was pressed, until it is ended by force.")
        .also(&["timeout", "grace"]),

    key(Table::Disk, "path", "a path", "this or `image`", "\"web.img\"",
        "File or block device."),
    key(Table::Disk, "image", "a path", "this or `path`", "\"debian.qcow2\"",
        "An image, which stays as it is: the VM writes to a clone of its own, made when it first starts. Any number of VMs can have clones of one image.")
        .also(&["base", "backing", "clone", "source"]),
    key(Table::Disk, "size", "a size with its unit, M or G", "the image's own", "\"20G\"",
        "Octets of a clone: no fewer than its image has, and more each time it is made larger. It takes up only what the VM has written.")
        .also(&["capacity"]),
    key(Table::Disk, "format", "\"raw\" or \"qcow2\"", "by the name of the file", "\"qcow2\"",
        "How the disk's octets are arranged. Never guessed from what is in the file: a guest could write there what it likes."),
    key(Table::Disk, "readonly", "true or false", "false", "true",
        "Whether the guest can only read it. A disk that no VM writes may belong to several."),

    key(Table::Socket, "connect", "a path", "required", "\"run/web.sock\"",
        "The socket that the front end listens on. The base connects, and tries for ever."),
];

/// The key of that name in that table.
pub fn find(table: Table, name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|k| k.table == table && k.name == name)
}

/// What somebody who wrote `name` in `table` probably meant.
pub(super) fn nearest(table: Table, name: &str) -> Option<&'static Key> {
    let lower = name.to_lowercase().replace('-', "_");
    let here = || KEYS.iter().filter(|k| k.table == table);
    here()
        .find(|k| k.name == lower || k.aliases.contains(&lower.as_str()))
        .or_else(|| closest(&lower, here().map(|k| (k.name, k))))
}

/// The candidate whose name needs the fewest changes, if these are few.
pub(super) fn closest<'n, T>(
    word: &str,
    candidates: impl Iterator<Item = (&'n str, T)>,
) -> Option<T> {
    if word.len() > 64 {
        return None;
    }
    candidates
        .map(|(name, candidate)| (distance(word, name), candidate))
        .min_by_key(|(d, _)| *d)
        .filter(|(d, _)| *d <= 1.max(word.chars().count() / 3))
        .map(|(_, candidate)| candidate)
}

/// How many letters must be added, removed, changed or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    // Rows of the usual table: each entry says what `a` up to a letter is away from a part of `b`.
    let mut older: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let mut before = None;
    for (i, of_a) in a.chars().enumerate() {
        let mut row = vec![i.saturating_add(1)];
        for (j, of_b) in b.iter().enumerate() {
            let at = |row: &[usize], n: usize| row.get(n).copied().unwrap_or(usize::MAX);
            let next = j.saturating_add(1);
            let change = at(&last, j).saturating_add(usize::from(of_a != *of_b));
            let one_more = at(&last, next).min(at(&row, j)).saturating_add(1);
            let swapped =
                j.checked_sub(1).filter(|n| before == Some(*of_b) && b.get(*n) == Some(&of_a));
            let swap = swapped.map_or(usize::MAX, |n| at(&older, n).saturating_add(1));
            row.push(change.min(one_more).min(swap));
        }
        older = std::mem::replace(&mut last, row);
        before = Some(of_a);
    }
    last.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_the_key_that_was_meant() {
        for (wrote, meant) in [
            ("adresses", "addresses"),
            ("memroy", "memory"),
            ("Memory", "memory"),
            ("stop-timeout", "stop_timeout"),
            ("ram", "memory"),
            ("initrd", "initramfs"),
        ] {
            assert_eq!(nearest(Table::Vm, wrote).map(|k| k.name), Some(meant), "{wrote}");
        }
        assert!(nearest(Table::Vm, "colour").is_none());
        assert!(nearest(Table::Network, &"x".repeat(100_000)).is_none());
    }

    #[test]
    fn distances_count_single_slips() {
        for (a, b, d) in [("", "", 0), ("a", "", 1), ("mtu", "mut", 1), ("dns", "dnses", 2)] {
            assert_eq!((distance(a, b), distance(b, a)), (d, d), "{a} {b}");
        }
    }
}
