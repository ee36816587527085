//! Many short frames of one port at a time: the way that nearly every datagram takes.
//!
//! # Theory of operation
//! ```text
//! foresee   how many there are; descriptors and octets of all are asked for     (virtqueue/src/tx.rs)
//! copy      all of them into storage, before anything is decided about one
//! look      each: is it a common datagram between two VMs of this network?
//!           yes -> noted for its receiver        no -> decided as any other, at its turn
//! ```
//! What the guest wrote lies in another core's cache. Asked for one by one, each datagram would wait
//! for its lines; so all are asked for before the first is copied. A frame of another kind (in many
//! pieces, a large send) ends the stretch, and is taken by itself.
//!
//! # Invariants
//! - The datagrams of one port are decided in the order of its ring.
//! - Nothing is refused here: what is not plain is decided by [`Batch::decide`], which has the names.

use std::net::{Ipv4Addr, Ipv6Addr};

use virtqueue::RingFault;

use super::{Batch, Tally};
use crate::datagram::{self, Kind, Plain};
use crate::names::PortId;
use crate::port::{ETHERNET, Port};

/// Frames whose lines are on their way at the same time: more would push each other out of a small
/// cache again.
const STRETCH: usize = 32;

/// What the stretch has found about its sender's addresses: senders seldom have more than one or two.
#[derive(Default)]
struct Own {
    four: Option<Ipv4Addr>,
    six: Option<Ipv6Addr>,
}

impl Batch<'_> {
    /// Takes and decides the next frames of a port as far as they are of the common kind; how many,
    /// `None` if there are no frames at all.
    pub(super) fn take_stretch(
        &mut self,
        port: &mut Port,
        tally: &mut Tally,
        most: u64,
    ) -> Result<Option<usize>, RingFault> {
        let most = most.min(self.storage.short_frames().min(STRETCH) as u64);
        let n = port.foresee(u16::try_from(most).unwrap_or(u16::MAX).max(1))?;
        if n == 0 {
            return Ok(None);
        }
        self.marks.datagram(port.id, tally.index, tally.with(n));
        let first = self.storage.len() as u16;
        let mut looks = [Plain::default(); STRETCH];
        let places = looks.get_mut(..n.into()).unwrap_or_default();
        let (taken, octets) = port.take_stretch(places, self.storage)?;
        tally.took(taken, octets.saturating_sub(taken.saturating_mul(ETHERNET)));
        // The first frame of a card whose address is not known tells it.
        let known = port.inch.guest_mac.is_some();
        let mut own = Own::default();
        if self.network.admission.is_large() {
            self.ask_ahead(first, places.get(..taken).unwrap_or_default());
        }
        for (i, look) in places.iter().take(taken).enumerate() {
            let index = first.wrapping_add(i as u16);
            #[cfg(feature = "fault-injection")]
            crate::faults::poison("vm", self.storage.frame(index));
            match self.neighbor(port.id, index, look, &mut own) {
                Some(to) if known => self.note(port, to, index, tally),
                _ => self.settle(port, index),
            }
        }
        Ok(Some(taken))
    }

    /// Asks a large list for all destinations of a stretch: one by one, each would wait for memory.
    #[inline(never)]
    fn ask_ahead(&self, first: u16, looks: &[Plain]) {
        let admission = &self.network.admission;
        for (i, look) in looks.iter().enumerate() {
            match look.kind {
                Kind::Other => {}
                Kind::Four => admission.ask4(look.destination4()),
                Kind::Six => {
                    let frame = self.storage.frame(first.wrapping_add(i as u16));
                    if let Some((_, destination)) = datagram::plain_addresses6(frame) {
                        admission.ask6(destination);
                    }
                }
            }
        }
    }

    /// The VM that a common datagram goes to, if it may and fits.
    #[inline]
    fn neighbor(&self, port: PortId, index: u16, look: &Plain, own: &mut Own) -> Option<PortId> {
        let admission = &self.network.admission;
        if look.len > self.network.mtu {
            return None;
        }
        match look.kind {
            Kind::Other => None,
            Kind::Four => {
                let source = look.source4();
                if own.four != Some(source) {
                    own.four = admission.owns4(port, source).then_some(source);
                    own.four?;
                }
                admission.neighbor4(port, look.destination4())
            }
            Kind::Six => {
                let (source, destination) = datagram::plain_addresses6(self.storage.frame(index))?;
                if own.six != Some(source) {
                    own.six = admission.owns6(port, source).then_some(source);
                    own.six?;
                }
                admission.neighbor6(port, destination)
            }
        }
    }

    /// Notes a common datagram for its receiver.
    #[inline]
    fn note(&mut self, port: &mut Port, to: PortId, index: u16, tally: &mut Tally) {
        #[cfg(feature = "fault-injection")]
        if crate::faults::spoil("vm-to-vm", self.storage.datagram_mut(index)) {
            return;
        }
        match self.ports.get_mut(to.0) {
            Some(receiver) => {
                self.inboxes.note(receiver, self.storage, index);
                tally.to_vm = tally.to_vm.wrapping_add(1);
            }
            None => self.settle(port, index),
        }
    }

    /// The general way, for a frame of a stretch.
    #[inline(never)]
    fn settle(&mut self, port: &mut Port, index: u16) {
        let Some(header) = self.storage.header(index) else { return };
        let fate = self.decide(port, &header, index);
        self.count(port, fate);
    }
}
