//! ipvisor itself: a private network with two external VMs.

use std::path::{Path, PathBuf};

use bench::frames::Ends;
use lab::Result;
use lab::instance::Instance;
use lab::netns::Netns;
use lab::scene::vm;

use super::{Processes, Program};

/// MAC addresses of sender and receiver.
pub const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
/// The base's MAC address on every last inch, and that of the other switches' gateway.
pub const GATEWAY_MAC: [u8; 6] = [0x02, 0x69, 0x70, 0x76, 0x00, 0x01];

/// The running instance.
pub struct Ours {
    // Dropped first: what is stopped cannot be ended in good order.
    processes: Processes,
    /// It.
    pub instance: Instance,
    sockets: [PathBuf; 2],
    _space: Netns,
}

impl Ours {
    /// Starts it, the release build, on the switching core.
    pub fn start() -> Result<Self> {
        let space = Netns::new()?;
        let mut config = "[network.bench]\nprefixes = [\"203.0.113.0/24\"]\n".to_owned();
        for (number, name) in (0u8..).zip(["a", "b"]) {
            let [v4, _] = vm(number);
            let mac = MACS[usize::from(number)].map(|o| format!("{o:02x}")).join(":");
            config.push_str(&format!(
                "[vm.{name}]\nengine = \"external\"\nsocket = \"{name}.sock\"\nmac = \"{mac}\"\n\
                 addresses = [\"{v4}\"]\n"
            ));
        }
        let instance = Instance::up_fast(&space, &config)?;
        let sockets = ["a", "b"].map(|name| instance.socket(name));
        let processes = Processes::new([instance.holder_process()?, instance.base_process()?]);
        processes.pin()?;
        Ok(Self { processes, instance, sockets, _space: space })
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
    Ends { macs: [MACS[0], GATEWAY_MAC], addresses: [vm(0)[0], vm(1)[0]] }
}
