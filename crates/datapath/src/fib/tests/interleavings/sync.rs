//! The model checker's types, under the names of `fib/sync.rs`.

pub(super) use loom::sync::Mutex;
pub(super) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
