//! The whole way between VMs, without sockets: drivers, the workers, nothing else.

mod pairs;
mod resolver;
mod several_workers;
mod stage;
mod two;
