//! Three small programs for the kernel, and the maps they look into.
//!
//! The programs are put together here, instruction by instruction, so that neither a compiler for
//! them nor object files are needed: `assembler` knows the instructions, `programs` and
//! `redirect` what the programs do, `kernel` loads them and reaches the maps (bpf(2)).

mod assembler;
mod kernel;
mod programs;
mod redirect;

pub(super) use kernel::{Link, Map, Program, ProgramKind, SocketMap, load};
#[cfg(test)]
pub(super) use programs::cut;
pub(super) use programs::{ingress, socket_filter};
pub(super) use redirect::redirect;
