//! stub
use crate::counters::Counter;
use crate::datagram::Payload;
use crate::names::*;
use std::net::IpAddr;
use std::time::Instant;
pub enum Lookup {
    Known(Mac),
    Resolving,
    Unreachable,
}
pub enum LanEvent {
    Resolved { hop: IpAddr, mac: Mac },
    Failed { hop: IpAddr },
    Claimed { address: IpAddr },
    Conflict { address: IpAddr, mac: Mac },
    Defended { address: IpAddr, mac: Mac },
    Join(Mac),
    Leave(Mac),
}
#[derive(Default)]
pub struct Outbox;
impl Outbox {
    pub fn frames(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::empty()
    }
    pub fn clear_frames(&mut self) {}
    pub fn next_event(&mut self) -> Option<LanEvent> {
        None
    }
    pub fn frame(&mut self, _: &[&[u8]]) {}
}
pub struct Lan;
impl Lan {
    pub fn next_deadline(&self) -> Option<Instant> {
        None
    }
    pub fn set_mac(&mut self, _: Mac, _: Instant, _: &mut Outbox) {}
    pub fn poll(&mut self, _: Instant, _: &mut Outbox) {}
    pub fn next_hop(&self, _: IpAddr) -> Result<IpAddr, Counter> {
        Err(Counter::DropNoGateway)
    }
    pub fn lookup(
        &mut self,
        _: Instant,
        _: IpAddr,
        _: Option<IpAddr>,
        _: Owner,
        _: &mut Outbox,
    ) -> Lookup {
        Lookup::Unreachable
    }
    pub fn input(
        &mut self,
        _: Instant,
        _: &[u8],
        _: &Payload,
        _: &mut Outbox,
    ) -> Option<Result<Counter, Counter>> {
        None
    }
}
