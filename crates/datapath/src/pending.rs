//! stub
use crate::names::*;
use crate::offload::Offload;
use crate::state::StateMemory;
use std::net::IpAddr;
pub struct Pending;
pub struct W;
impl W {
    pub fn owner(&self) -> Owner {
        Owner::Port(PortId(0))
    }
    pub fn offload(&self) -> Offload {
        Offload::default()
    }
    pub fn bytes(&self) -> &[u8] {
        &[]
    }
}
impl Pending {
    pub fn adopt(_: StateMemory) -> Self {
        Self
    }
    pub fn push(
        &mut self,
        _: NetworkId,
        _: Owner,
        _: IpAddr,
        _: &Offload,
        _: &[u8],
    ) -> Option<Owner> {
        None
    }
    pub fn next(&mut self, _: NetworkId, _: IpAddr) -> Option<W> {
        None
    }
    pub fn done(&mut self, _: W) {}
}
