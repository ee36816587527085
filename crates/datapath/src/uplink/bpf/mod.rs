//! Two small programs for the kernel, and the maps they look into.
//!
//! The programs are put together here, instruction by instruction, so that neither a compiler for
//! them nor object files are needed: `assembler` knows the instructions, `programs` what the two
//! programs do, `kernel` loads them and reaches the maps (bpf(2)).

mod assembler;
mod kernel;
mod programs;

pub(super) use kernel::{Map, Program, ProgramKind, load};
#[cfg(test)]
pub(super) use programs::cut;
pub(super) use programs::{ingress, socket_filter};
