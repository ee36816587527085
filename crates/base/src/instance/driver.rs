//! AF_XDP on a network's card: begun, kept, taken over, ended, as configuration and card have it.
//!
//! # Theory of operation
//! The packet socket is there always: it carries what AF_XDP does not take, and everything where AF_XDP
//! cannot be. So nothing here is fatal: why it cannot be is told as the event `driver`.
//!
//! ```text
//! wanted, not there    made; kept by the holder; begun; given to the worker
//! wanted, there        the program is renewed: card, maps or base may be others
//! not wanted, there    the program goes, the worker serves what waits and sends what is left, the
//!                      sockets are closed, the holder forgets them
//! ```
//! Sockets are for one card: when it comes back under another index, they are made anew. So they are when
//! its MTU has become larger than theirs.
//!
//! # Order
//! What has been made is kept before any frame comes, the program's link last: a successor that finds
//! no link takes over nothing, and nothing was there to lose. At the end the worker takes the program
//! off the card, whoever keeps its link, and the holder forgets last: a successor that finds the rings
//! of one that died in between ends them again. What lies there is for ports, so nothing is ended
//! before the worker serves.

use datapath::keeper::Keeper;
use datapath::state::{Place, StateMemory};
use datapath::uplink::{self, UplinkError, XdpSetup, XdpUplink};
use datapath::worker::Gone;

use super::card::{Card, CardSetup};
use super::network::{Around, NetworkSide};
use crate::config::Driver;
use crate::control::EventLevel;
use crate::entry::causes;
use crate::keeper::Inheritance;

/// What the keys of a network's AF_XDP descriptors begin with.
pub(super) fn prefix(network: &str) -> String {
    format!("network/{network}/xdp/")
}

/// Takes over what a predecessor left, wanted or not: frames may wait there.
pub(super) fn adopt(
    setup: &CardSetup<'_>,
    inheritance: &mut Inheritance,
    keeper: &dyn Keeper,
    state: &StateMemory,
) -> std::io::Result<Option<XdpUplink>> {
    let prefix = prefix(setup.network);
    let kept = inheritance.take_prefix(&prefix);
    if kept.is_empty() {
        return Ok(None);
    }
    match XdpUplink::adopt(kept, setup.link.index) {
        Ok(card) => Ok(Some(card)),
        Err(why) => {
            keeper.forget_all(&prefix)?;
            let what = format!("{}: what lay in their rings is lost", causes(&why));
            state.note(Place::Network(setup.id), what);
            Ok(None)
        }
    }
}

/// Why AF_XDP does not carry a card's datagrams.
#[derive(Debug, thiserror::Error)]
enum NoXdp {
    #[error(transparent)]
    Card(#[from] UplinkError),
    #[error("the holder does not keep its descriptors")]
    Keep(#[source] std::io::Error),
    #[error("its sockets cannot be watched")]
    Watch(#[source] std::io::Error),
    #[error(transparent)]
    Gone(#[from] Gone),
}

impl NetworkSide {
    /// Brings the way by which the card is reached to what the configuration says.
    pub(super) fn choose_driver(&mut self, around: &Around<'_>) -> Result<(), Gone> {
        let (Some(card), Some(link)) = (&self.card, &self.link) else { return Ok(()) };
        let wanted = self.config.driver == Driver::Xdp;
        let there = around.worker.with_xdp(self.id, |card| (card.index(), card.largest_mtu()))?;
        let (index, mtu) = (link.index, link.mtu);
        if there.is_some_and(|(of, largest)| !wanted || of != index || mtu > largest) {
            self.end_xdp(around)?;
        } else if card.by_xdp && self.renew_xdp(around)? {
            return Ok(());
        } else if there.is_some() {
            // Its program is gone: a predecessor died while it ended this.
            self.end_xdp(around)?;
        }
        if !wanted {
            return Ok(());
        }
        let (level, text) = match self.begin_xdp(around) {
            Ok(text) => (EventLevel::Info, text),
            Err(NoXdp::Gone(gone)) => return Err(gone),
            Err(why) => {
                let _ = around.keeper.forget_all(&prefix(&self.name));
                let text = format!(
                    "AF_XDP cannot carry the VMs' datagrams, a packet socket does: {}",
                    causes(&why)
                );
                (EventLevel::Warning, text)
            }
        };
        self.tell_driver(around, level, text);
        Ok(())
    }

    fn tell_driver(&self, around: &Around<'_>, level: EventLevel, text: String) {
        around.events.push(level, "driver", &format!("network/{}", self.name), text);
    }

    /// Makes the sockets and gives them to the worker.
    fn begin_xdp(&mut self, around: &Around<'_>) -> Result<String, NoXdp> {
        let Some((card, setup)) = self.card.as_ref().and_then(|c| Some((c, self.xdp_setup(c)?)))
        else {
            return Ok("there is no card".to_owned());
        };
        uplink::keep_tags_in_frames(&card.name, around.state, self.id)?;
        let made = XdpUplink::open(&setup)?;
        let (prefix, keeper): (_, &dyn Keeper) = (prefix(&self.name), &**around.keeper);
        for (part, fd) in made.descriptors() {
            keeper.keep(&format!("{prefix}{part}"), fd).map_err(NoXdp::Keep)?;
        }
        let text = format!(
            "AF_XDP carries the VMs' datagrams, {}, receive queues: {}",
            if made.is_zero_copy() { "without copies" } else { "with a copy in the kernel" },
            made.queues()
        );
        made.begin()?;
        around.worker.set_xdp(self.id, made)?.map_err(NoXdp::Watch)?;
        if let Some(card) = &mut self.card {
            card.by_xdp = true;
        }
        Ok(text)
    }

    /// The program is made as this base makes it, for the card as it is; false if there is none at the
    /// card that could be replaced.
    fn renew_xdp(&self, around: &Around<'_>) -> Result<bool, Gone> {
        let Some(setup) = self.card.as_ref().and_then(|card| self.xdp_setup(card)) else {
            return Ok(true);
        };
        let Some(control) = around.worker.with_xdp(self.id, |card| card.control())? else {
            return Ok(false);
        };
        let loaded = control.and_then(|control| Ok((control.load(&setup)?, control)));
        let why = match loaded {
            Ok((program, control)) => return Ok(control.renew(&program).is_ok()),
            Err(error) => error,
        };
        let text = format!("the program of AF_XDP is the old one: {}", causes(&why));
        self.tell_driver(around, EventLevel::Warning, text);
        Ok(true)
    }

    fn end_xdp(&mut self, around: &Around<'_>) -> Result<(), Gone> {
        around.worker.end_xdp(self.id)?;
        // That the holder cannot be told ends this base sooner or later.
        let _ = around.keeper.forget_all(&prefix(&self.name));
        if let Some(card) = &mut self.card {
            card.by_xdp = false;
        }
        self.tell_driver(around, EventLevel::Info, "AF_XDP is not used any more".to_owned());
        Ok(())
    }

    fn xdp_setup<'a>(&'a self, card: &'a Card) -> Option<XdpSetup<'a>> {
        let link = self.link.as_ref()?;
        Some(XdpSetup {
            name: &card.name,
            index: link.index,
            mac: link.mac?,
            mtu: link.mtu,
            frames: self.config.receive_ring,
            maps: card.guard.descriptors(),
        })
    }
}
