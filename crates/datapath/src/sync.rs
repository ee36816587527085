//! Locks that a panic does not poison: a panic in any thread ends the whole base, so nobody sees what
//! it left.

use std::sync::{Mutex, MutexGuard};

/// Waits for the lock.
#[inline]
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}

/// What the lock holds, for whoever has it alone.
#[inline]
pub fn own<T>(mutex: &mut Mutex<T>) -> &mut T {
    mutex.get_mut().unwrap_or_else(|poison| poison.into_inner())
}
