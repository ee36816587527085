//! The whole way between VMs, without sockets: drivers, the workers, nothing else.

mod several_workers;
mod stage;
mod two;
