//! ipvisor itself: a network with external VMs, of which the first two are the sender and the
//! receiver.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use bench::frames::{Ends, Mac};
use lab::Result;
use lab::instance::Instance;
use lab::netns::Netns;
use lab::{paths, scene};

use super::{Processes, Program};

/// MAC addresses of sender and receiver.
pub const MACS: [Mac; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
/// The base's MAC address on every last inch, and that of the other switches' gateway.
pub const GATEWAY_MAC: Mac = [0x02, 0x69, 0x70, 0x76, 0x00, 0x01];
/// Where the sender's and the receiver's addresses lie.
const PREFIX: &str = "203.0.113.0/24";
/// Where addresses lie if many are needed: those for benchmarks (RFC 2544).
pub const MANY: &str = "198.18.0.0/15";

/// A VM as it is configured.
#[derive(Clone, Debug)]
pub struct Vm {
    /// Its name.
    pub name: String,
    /// Its MAC address, if it is not learned.
    pub mac: Option<Mac>,
    /// What it owns.
    pub addresses: Vec<IpAddr>,
}

impl Vm {
    /// The sender and the receiver, with an address each.
    pub fn pair() -> [Self; 2] {
        [("a", 0), ("b", 1)].map(|(name, n)| Self {
            name: name.to_owned(),
            mac: Some(MACS[usize::from(n)]),
            addresses: vec![scene::vm(n)[0]],
        })
    }

    fn table(&self) -> String {
        let Self { name, mac, addresses } = self;
        let mac = mac.map(|m| format!("mac = \"{}\"\n", m.map(|o| format!("{o:02x}")).join(":")));
        let addresses: Vec<_> = addresses.iter().map(|a| format!("\"{a}\"")).collect();
        format!(
            "[vm.{name}]\nengine = \"external\"\nsocket = \"{name}.sock\"\n{}addresses = [{}]\n",
            mac.unwrap_or_default(),
            addresses.join(",")
        )
    }
}

/// One of many addresses: the `n`th of 131,070.
pub fn numbered(n: u32) -> IpAddr {
    let first = u32::from(Ipv4Addr::new(198, 18, 0, 1));
    Ipv4Addr::from(first + n).into()
}

/// The running instance.
pub struct Ours {
    // Dropped first: what is stopped cannot be ended in good order.
    processes: Processes,
    /// It.
    pub instance: Instance,
    sockets: [PathBuf; 2],
    _space: Option<Netns>,
}

impl Ours {
    /// Starts it, the release build, on the switching core, with a private network; `more` are
    /// prefixes beside the one where sender and receiver are.
    pub fn start(more: &[&str], vms: &[Vm]) -> Result<Self> {
        Self::start_private(&paths::ipvisor_release()?, more, vms)
    }

    /// Starts another build of it, for the sender and the receiver.
    pub fn start_build(program: &Path) -> Result<Self> {
        Self::start_private(program, &[], &Vm::pair())
    }

    fn start_private(program: &Path, more: &[&str], vms: &[Vm]) -> Result<Self> {
        let space = Netns::new()?;
        let prefixes: Vec<_> = [&[PREFIX], more].concat();
        let network = format!("[network.bench]\nprefixes = {prefixes:?}\n");
        let made = Self::start_program(program, &space, &network, vms)?;
        Ok(Self { _space: Some(space), ..made })
    }

    /// The release build in a namespace that there is, with the table of a network.
    pub fn start_in(space: &Netns, network: &str, vms: &[Vm]) -> Result<Self> {
        Self::start_program(&paths::ipvisor_release()?, space, network, vms)
    }

    fn start_program(program: &Path, space: &Netns, network: &str, vms: &[Vm]) -> Result<Self> {
        let tables: String = vms.iter().map(Vm::table).collect();
        let config = format!("workers = 1\n{network}{tables}");
        let instance = Instance::up_by(program, space, &config, Vec::new())?;
        let sockets = ["a", "b"].map(|name| instance.socket(name));
        let processes = Processes::new([instance.holder_process()?, instance.base_process()?]);
        processes.pin()?;
        Ok(Self { processes, instance, sockets, _space: None })
    }
}

impl Program for Ours {
    const NAME: &'static str = "ipvisor";

    fn sockets(&self) -> [&Path; 2] {
        [&self.sockets[0], &self.sockets[1]]
    }

    fn processes(&self) -> &Processes {
        &self.processes
    }
}

/// From the first VM to the second, by way of the gateway's MAC address.
pub fn ends() -> Ends {
    Ends { macs: [MACS[0], GATEWAY_MAC], addresses: [scene::vm(0)[0], scene::vm(1)[0]] }
}
