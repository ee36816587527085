//! What is said to somebody who may not.

use super::offloads::turn;
use super::world::{CARD, World, without_capabilities};
use crate::names::NetworkId;
use crate::netlink::{Netlink, SETCAP};
use crate::state::StateMemory;
use crate::uplink::{Guard, HostPath, PacketUplink, UplinkError, turn_off};

const NETWORK: NetworkId = NetworkId(0);

/// An error says what was tried, which capability that needs, and how to give it.
fn says<T: std::fmt::Debug>(result: Result<T, UplinkError>, action: &str, capability: &str) {
    let text = result.unwrap_err().to_string();
    assert_eq!(text, format!("cannot {action}: this needs {capability}; {SETCAP}"));
}

#[test]
fn each_refusal_names_its_capability_and_how_to_give_it() {
    World::run(|world| {
        let index = world.card.index;
        let filter = Guard::open("test").unwrap().socket_filter().unwrap();
        turn("rx-gro", true);
        without_capabilities(|| {
            let state = StateMemory::create().unwrap().0;
            says(
                Guard::open("test"),
                "make an address map in the kernel",
                "CAP_BPF and CAP_NET_ADMIN",
            );
            says(
                PacketUplink::open(index, 15, &filter, &state, NETWORK),
                "make a packet socket",
                "CAP_NET_RAW",
            );
            says(
                HostPath::open(&mut Netlink::open().unwrap(), "ipv-test", 1500, &state, NETWORK),
                "make the TUN device ipv-test",
                "CAP_NET_ADMIN",
            );
            says(
                turn_off(CARD, false, &state, NETWORK),
                "turn off rx-gro of card",
                "CAP_NET_ADMIN",
            );
        });
    });
}
