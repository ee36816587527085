//! What a worker does about what a base has died of: it leaves it out, and clears whoever has made
//! progress. Who is suspected, and of what, was decided before (`state::blame`).

use super::change::Change;
use super::network::UplinkSide;
use super::turn::Turn;
use crate::counters::{Counter, Counters};
use crate::names::{Inlet, Lane, NetworkId, Owner, PortId, RingId, Side};
use crate::port::{Receiving, Sending};
use crate::state::StateMemory;
use crate::state::suspicion::{Care, NetworkSuspicion, PortSuspicion};

impl Turn<'_> {
    /// A port's batch was given back.
    #[inline]
    pub(super) fn gone_on(&self, id: PortId, sending: &mut Sending) {
        if sending.care == Care::default() {
            return;
        }
        let suspicion = PortSuspicion::of(&self.world.state, id);
        let ring = RingId { pair: sending.pair(), side: Side::Tx };
        if std::mem::take(&mut sending.care.skip) {
            suspicion.set_skip(ring, None);
        }
        if sending.care.passed(sending.index()) {
            suspicion.forget(ring);
        }
    }

    /// Something was published in an rx ring.
    #[inline]
    pub(super) fn received(&self, to: Lane, receiving: &mut Receiving) {
        if receiving.is_cleared() {
            let suspicion = PortSuspicion::of(&self.world.state, to.port);
            suspicion.forget(RingId { pair: to.pair, side: Side::Rx });
        }
    }

    /// The frames of a batch were released.
    #[inline]
    pub(super) fn released(&self, id: NetworkId, inlet: Inlet, uplink: &mut UplinkSide) {
        let position = uplink.position(inlet);
        let care = uplink.care_mut(inlet);
        if *care == Care::default() {
            return;
        }
        let suspicion = NetworkSuspicion::of(&self.world.state, id);
        if std::mem::take(&mut care.skip) {
            suspicion.skipped_frame(inlet);
        }
        if care.passed(position as u16) {
            suspicion.forget_frames(inlet);
        }
    }
}

impl Change<'_> {
    /// Throws away the datagram from the host of which a base has died twice. To be called before
    /// any is read.
    pub(super) fn leave_out_from_host(&mut self, id: NetworkId) {
        let suspicion = NetworkSuspicion::of(&self.world.state, id);
        let Some(network) = self.world.networks.get_mut(id.0) else { return };
        let outside = network.outside_mut();
        outside.host_suspected = suspicion.host();
        if !suspicion.skip_host() {
            return;
        }
        if outside.host.as_mut().is_some_and(|host| host.leave_out()) {
            let counters = Counters::of(&self.world.state, Owner::Host(id));
            counters.add(Counter::Taken, 1);
            counters.add(Counter::DropPoison, 1);
        }
        suspicion.set_skip_host(false);
    }

    /// A port is not quarantined any more: its rings come next.
    pub(super) fn release_port(&mut self, id: PortId) {
        if let Some(port) = self.world.ports.get_mut(id.0) {
            port.own_receiving().for_each(|half| half.quarantined = false);
        }
    }
}

/// How a ring of a card that was just taken into use is to be served.
pub(super) fn care_of_card(
    state: &StateMemory,
    id: NetworkId,
    inlet: Inlet,
    position: u64,
) -> Care {
    let suspicion = NetworkSuspicion::of(state, id);
    let (frames, skip) = (suspicion.frames(inlet), suspicion.skip_frame(inlet));
    let care = Care::at(position as u16, frames, skip);
    if care == Care::default() {
        suspicion.forget_frames(inlet);
    }
    care
}
