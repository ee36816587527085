//! What a checked configuration is: the only form in which the rest of the base sees one.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use datapath::names::Mac;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A whole configuration, checked: names refer to something, addresses belong to one VM only, files
/// exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The threads that carry datagrams.
    pub workers: Workers,
    /// `[host]`
    pub host: Host,
    /// `[network.NAME]`, by name.
    pub networks: BTreeMap<String, Network>,
    /// `[vm.NAME]`, by name.
    pub vms: BTreeMap<String, Vm>,
}

/// `workers`: for each the core that it keeps to, if any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workers(pub Vec<Option<usize>>);

impl Default for Workers {
    fn default() -> Self {
        Self(vec![None])
    }
}

/// `[host]`: what may be done with this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Whether VMs may be given more CPUs and memory than the machine has.
    pub overcommit: bool,
    /// Where the VMs keep what must outlast them, if not in the usual place.
    pub data_dir: Option<PathBuf>,
}

/// `[network.NAME]`: one list of addresses with its uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The adapter card, by its interface name. `None`: a private network.
    pub uplink: Option<String>,
    /// The prefixes that the network's addresses lie in; none overlaps another.
    pub prefixes: Vec<IpNet>,
    /// Who carries on what is neither a VM nor on link.
    pub gateway: Gateway,
    /// Whether other hosts of the prefixes are neighbours on the LAN. If not, everything but the
    /// VMs is reached through the gateway.
    pub on_link: bool,
    /// The largest datagram, if not the card's own limit (a private network: 1500).
    pub mtu: Option<u16>,
    /// Name servers: that the base asks, or that guests are told of if the base answers no DNS.
    pub dns: Vec<IpAddr>,
    /// Whether the base answers DNS on the guests' links.
    pub resolver: bool,
    /// Whether the host kernel may merge TCP segments that arrive from the card.
    pub coalesce: bool,
    /// How the card is reached.
    pub driver: Driver,
    /// Frames of the card's receive ring.
    pub receive_ring: u32,
    /// Source of the ICMP errors that the base sends for this network, if not the host's address.
    pub icmp_source4: Option<Ipv4Addr>,
    /// The same for ICMPv6.
    pub icmp_source6: Option<Ipv6Addr>,
}

impl Network {
    /// The network's prefix that `address` lies in.
    pub fn prefix_of(&self, address: IpAddr) -> Option<IpNet> {
        self.prefixes.iter().copied().find(|p| p.contains(&address))
    }

    /// Whether any IPv6 address can exist here.
    pub fn has_ipv6(&self) -> bool {
        self.prefixes.iter().any(|p| matches!(p, IpNet::V6(_)))
    }
}

/// How a network's card is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    /// As the base thinks best: by a packet socket, for now.
    #[default]
    Auto,
    /// By a packet socket.
    Packet,
    /// By AF_XDP for the VMs' datagrams, where that can be; by a packet socket for the rest.
    Xdp,
}

/// The LAN's router, one per family at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gateway {
    /// The host's own default routes through the network's card, as far as it has any.
    Auto,
    /// These, and no other.
    Fixed {
        /// The IPv4 router; may lie outside the prefixes.
        v4: Option<Ipv4Addr>,
        /// The IPv6 router; often link-local.
        v6: Option<Ipv6Addr>,
    },
}

impl Gateway {
    /// No router: only the prefixes can be reached.
    pub const NONE: Self = Self::Fixed { v4: None, v6: None };
}

/// `[vm.NAME]`: one virtual machine with one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vm {
    /// The network that its port belongs to: a key of [`Config::networks`].
    pub network: String,
    /// What it may send from and receives: single addresses (full length) and whole prefixes, in
    /// the order written.
    pub addresses: Vec<IpNet>,
    /// Its MAC address. Always there for a VM that the base forms; for an external one, `None`
    /// means that it is learned.
    pub mac: Option<Mac>,
    /// The largest datagram it is told to send, if not the network's.
    pub mtu: Option<u16>,
    /// Queue pairs that its network card may have: at least one, at most [`MAX_PAIRS`].
    ///
    /// [`MAX_PAIRS`]: datapath::names::MAX_PAIRS
    pub queues: usize,
    /// The name it is told by DHCP.
    pub hostname: String,
    /// Who runs it.
    pub engine: Engine,
}

impl Vm {
    /// Its single IPv4 addresses; the first is what DHCP gives.
    pub fn addresses4(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.addresses.iter().filter_map(|net| match net {
            IpNet::V4(n) if n.prefix_len() == 32 => Some(n.addr()),
            _ => None,
        })
    }

    /// Its single IPv6 addresses; the first is what DHCPv6 gives.
    pub fn addresses6(&self) -> impl Iterator<Item = Ipv6Addr> + '_ {
        self.addresses.iter().filter_map(|net| match net {
            IpNet::V6(n) if n.prefix_len() == 128 => Some(n.addr()),
            _ => None,
        })
    }

    /// The IPv4 prefixes routed to it as a whole.
    pub fn prefixes4(&self) -> impl Iterator<Item = Ipv4Net> + '_ {
        self.addresses.iter().filter_map(|net| match net {
            IpNet::V4(n) if n.prefix_len() < 32 => Some(*n),
            _ => None,
        })
    }

    /// The IPv6 prefixes routed to it as a whole.
    pub fn prefixes6(&self) -> impl Iterator<Item = Ipv6Net> + '_ {
        self.addresses.iter().filter_map(|net| match net {
            IpNet::V6(n) if n.prefix_len() < 128 => Some(*n),
            _ => None,
        })
    }
}

/// Who runs a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Engine {
    /// The base forms it and starts QEMU as its vessel (`engine = "qemu"` or `"auto"`).
    Qemu(Machine),
    /// Somebody else's vhost-user front end comes to this socket.
    External(Socket),
}

/// Where an external front end and the base meet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Socket {
    /// The base listens here.
    Listen(PathBuf),
    /// The front end listens here; the base connects, again and again.
    Connect(PathBuf),
}

impl Socket {
    /// The path, whoever listens.
    pub fn path(&self) -> &PathBuf {
        match self {
            Self::Listen(path) | Self::Connect(path) => path,
        }
    }
}

/// What a VM that the base forms is made of, and how it is kept running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Virtual CPUs.
    pub cpus: u32,
    /// Octets of memory: a multiple of 1 MiB.
    pub memory: u64,
    /// A kernel to start directly; without one the firmware starts the first disk.
    pub kernel: Option<Kernel>,
    /// Which firmware that is.
    pub firmware: Firmware,
    /// Disks, in the order the guest finds them.
    pub disks: Vec<Disk>,
    /// What its cloud-init is told, if anything.
    pub seed: Option<Seed>,
    /// What follows when it ends.
    pub restart: Restart,
    /// Whether `up` starts it.
    pub autostart: bool,
    /// The VMs that run before it is started, and are stopped after it: keys of [`Config::vms`],
    /// without cycles.
    pub after: Vec<String>,
    /// How long a guest has, after its power button was pressed, until it is ended by force.
    pub stop_timeout: Duration,
}

/// A kernel started directly, without firmware's help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// bzImage, or an uncompressed vmlinux with a PVH entry.
    pub image: PathBuf,
    /// Initial file system.
    pub initramfs: Option<PathBuf>,
    /// Kernel command line.
    pub cmdline: String,
}

/// What starts the first disk of a VM without a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS, which comes with QEMU.
    #[default]
    Bios,
    /// OVMF, with variables of the VM's own.
    Uefi,
}

/// What a guest with cloud-init is told on a disk of its own (NoCloud); its host name besides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seed {
    /// The account that it makes, if not the image's own.
    pub user: Option<String>,
    /// Public keys of those who may log in there, a line each.
    pub ssh_keys: Vec<String>,
    /// A file that it is given as user data, read when the VM is started.
    pub user_data: Option<PathBuf>,
}

/// One disk of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// File or block device; of a clone its image.
    pub path: PathBuf,
    /// How the octets of that are arranged.
    pub format: DiskFormat,
    /// Whether the guest can only read it.
    pub readonly: bool,
    /// Set if the VM writes to a clone of its own.
    pub clone: Option<CloneSize>,
}

impl Disk {
    /// Whether nobody writes to the file or device: the guest cannot, or has a clone.
    pub fn only_read(&self) -> bool {
        self.readonly || self.clone.is_some()
    }
}

/// How large a clone is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloneSize {
    /// As its image.
    AsImage,
    /// So many octets.
    Octets(u64),
}

/// How a disk's octets are arranged in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFormat {
    /// As they are.
    Raw,
    /// QEMU's copy-on-write format.
    Qcow2,
}

impl DiskFormat {
    /// As written in a configuration and on QEMU's command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// What follows when a VM ends by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Restart {
    /// It stays ended.
    #[default]
    Never,
    /// It is started again unless it powered itself off.
    OnFailure,
    /// It is started again.
    Always,
}

impl Restart {
    /// As written in a configuration, where `no` stands for `never` as well.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::OnFailure => "on-failure",
            Self::Always => "always",
        }
    }
}
