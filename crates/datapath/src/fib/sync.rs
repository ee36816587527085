//! What the list shares between threads, named in one place.
//!
//! # Theory of operation
//! The files beside this one take atomics, locks and fences from here only. The model tests compile
//! the very same files a second time with the model checker's types in this file's place
//! (`tests/interleavings`), and so run what is shipped, not a drawing of it.

pub(super) use std::sync::Mutex;
pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
