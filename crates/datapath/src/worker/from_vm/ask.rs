//! A question for the resolver: out of the batch, into its socket.

use virtqueue::NetHeader;

use super::{Batch, Fate};
use crate::counters::Counter;
use crate::datagram;
use crate::deliver;
use crate::offload::{Offload, Sender};
use crate::port::{ETHERNET, Sending};
use crate::resolver::{LONGEST, Tag};

impl Batch<'_, '_> {
    /// Hands a datagram to the resolver, its checksum completed, if the port may ask for more.
    #[cold]
    pub(super) fn ask(
        &mut self,
        port: &mut Sending,
        header: &NetHeader,
        index: u16,
    ) -> Result<Fate, Counter> {
        let (_, payload) = datagram::parse(self.storage.frame(index))?;
        let offload = Offload::check(header, ETHERNET, &payload, Sender::Guest(port.allowed()))?;
        let len = payload.bytes().len();
        if len > LONGEST {
            return Err(Counter::DropTooBig);
        }
        let asker = self.world.ports.get(self.port.0).ok_or(Counter::DropResolverAway)?;
        if !port.questions.allow(self.now) {
            return Err(Counter::DropResolverBudget);
        }
        self.storage.trim(index, u32::try_from(len).unwrap_or(u32::MAX));
        let datagram = self.storage.datagram_mut(index);
        deliver::complete(&offload, datagram);
        let tag = Tag { port: self.port, generation: asker.generation };
        self.world.resolver.ask(asker.worker, tag, datagram)?;
        Ok(Fate::Met(Counter::ToResolver))
    }
}
