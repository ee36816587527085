//! What is counted: one kind of datagram on one way through the worker.

use bench::frames::{Kind, LARGE};

/// Where the datagrams come from and go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From one VM to another.
    Between,
    /// From a VM to the card.
    Out,
    /// From the card to a VM.
    In,
}

/// One case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Its name in the record.
    pub name: &'static str,
    /// Which way.
    pub way: Way,
    /// What kind of datagram.
    pub kind: Kind,
    /// Over IPv6.
    pub ip6: bool,
    /// Both VMs have packed rings.
    pub packed: bool,
    /// The list changes meanwhile: an address comes or goes for every [`UPDATE_EVERY`] datagrams.
    pub updates: bool,
    /// Octets of each frame, without FCS.
    pub octets: usize,
    /// Datagrams of the short and of the long run: their difference is what counts. The longer, the
    /// less it matters what is not the same in both: an empty turn of the worker more or less, and
    /// what it takes to fill the list, whose hash is seeded. Each run fits a ring.
    pub runs: [u16; 2],
}

impl Case {
    const fn udp(name: &'static str, way: Way, octets: usize) -> Self {
        Self {
            name,
            way,
            kind: Kind::Udp,
            ip6: false,
            packed: false,
            updates: false,
            octets,
            runs: [2048, 8192],
        }
    }

    const fn large(name: &'static str, way: Way) -> Self {
        let udp = Self::udp(name, way, LARGE);
        Self { kind: Kind::LargeTcp, runs: [64, 256], ..udp }
    }

    /// How often the list changes in a run with so many datagrams.
    pub fn updates(&self, datagrams: u16) -> u16 {
        if self.updates { datagrams / UPDATE_EVERY } else { 0 }
    }

    /// Whether a card is needed, and so root.
    pub fn needs_card(&self) -> bool {
        self.way != Way::Between
    }
}

/// 100,000 changes of the list in a second, at ten million datagrams.
const UPDATE_EVERY: u16 = 100;

/// All cases, in the order in which they are shown.
pub const ALL: [Case; 9] = [
    Case::udp("between_64_ip4", Way::Between, 64),
    Case { updates: true, ..Case::udp("between_64_ip4_updates", Way::Between, 64) },
    Case { packed: true, ..Case::udp("between_64_ip4_packed", Way::Between, 64) },
    Case { ip6: true, ..Case::udp("between_64_ip6", Way::Between, 64) },
    Case::udp("between_1500_ip4", Way::Between, 1514),
    Case::large("between_64k_ip4", Way::Between),
    Case::udp("out_64_ip4", Way::Out, 64),
    Case::large("out_64k_ip4", Way::Out),
    // The card's ring has a slot for the largest datagram for each of them: 137 MiB.
    Case { runs: [128, 2048], ..Case::udp("in_64_ip4", Way::In, 64) },
];

/// The case of this name.
pub fn find(name: &str) -> Option<Case> {
    ALL.into_iter().find(|case| case.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_of_two_runs_is_whole_batches() {
        for Case { name, runs: [short, long], .. } in ALL {
            assert!(long > short && (long - short) % 64 == 0, "{name}");
            assert_eq!(find(name).map(|c| c.runs), Some([short, long]));
        }
    }
}
