//! The configuration: from text that a person wrote to values that the base can rely on.

mod types;

pub use types::{
    Config, Disk, DiskFormat, Engine, Gateway, Host, Kernel, Machine, Network, Restart, Socket, Vm,
};
