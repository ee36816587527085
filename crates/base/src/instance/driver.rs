//! AF_XDP on a network's card: begun, kept, taken over, ended, as configuration and card have it.
//!
//! # Theory of operation
//! The packet socket is there always: it carries what AF_XDP does not take, and everything where AF_XDP
//! cannot be. So nothing here is fatal: why it cannot be is told as the event `driver`.
//!
//! ```text
//! wanted, not there    made; kept by the holder; given to the worker
//! wanted, there        the program is renewed: card, maps or base may be others
//! not wanted, there    the program goes, the worker serves what waits, the sockets are closed
//! ```
//! Sockets are for one card: when it comes back under another index, they are made anew.
//!
//! # Order
//! What has been made is kept before the worker gets it, the program's link last: a successor that
//! finds no link takes over nothing. At the end the holder forgets the link first, so that the
//! program goes when the worker lets go of it.

use std::os::fd::AsFd;

use datapath::keeper::Keeper;
use datapath::state::{Place, StateMemory};
use datapath::uplink::{self, LARGEST_XDP_MTU, UplinkError, XdpProgram, XdpSetup, XdpUplink};
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
        let fits = link.mtu <= LARGEST_XDP_MTU;
        let wanted = self.config.driver == Driver::Xdp;
        let there = around.worker.with_xdp(self.id, |card| card.index())?;
        if there.is_some_and(|index| !wanted || !fits || index != link.index) {
            self.end_xdp(around)?;
        } else if card.by_xdp {
            return self.renew_xdp(around);
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
        around.worker.set_xdp(self.id, made)?.map_err(NoXdp::Watch)?;
        if let Some(card) = &mut self.card {
            card.by_xdp = true;
        }
        Ok(text)
    }

    /// The program is made as this base makes it, for the card as it is.
    fn renew_xdp(&self, around: &Around<'_>) -> Result<(), Gone> {
        let Some(setup) = self.card.as_ref().and_then(|card| self.xdp_setup(card)) else {
            return Ok(());
        };
        let Some(map) = around.worker.with_xdp(self.id, |card| card.map())? else { return Ok(()) };
        let renewed = match map.and_then(|map| XdpProgram::load(&setup, map.as_fd())) {
            Ok(program) => around.worker.with_xdp(self.id, move |card| card.renew(&program))?,
            Err(error) => Some(Err(error)),
        };
        if let Some(Err(error)) = renewed {
            let text = format!("the program of AF_XDP is the old one: {}", causes(&error));
            self.tell_driver(around, EventLevel::Warning, text);
        }
        Ok(())
    }

    fn end_xdp(&mut self, around: &Around<'_>) -> Result<(), Gone> {
        let prefix = prefix(&self.name);
        // That the holder cannot be told ends this base sooner or later.
        let _ = around.keeper.forget(&format!("{prefix}link"));
        around.worker.end_xdp(self.id)?;
        let _ = around.keeper.forget_all(&prefix);
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
