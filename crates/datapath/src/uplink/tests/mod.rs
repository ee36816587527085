//! The uplink on a kernel, in network namespaces that each test makes: needs root.

mod damage;
mod guard;
mod look;
mod offloads;
mod packet;
mod privileges;
mod served;
mod tun;
pub(crate) mod world;
mod xdp;
mod xdp_large;
mod xdp_served;
