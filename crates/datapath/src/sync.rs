//! Locks that a panic does not poison: a panic in any thread ends the whole base, so nobody sees what
//! it left.
//!
//! # Under ThreadSanitizer
//! Whoever has to wait for a lock gets it inside of the standard library, which is not instrumented: in
//! the sanitizer's eyes such a lock orders nothing. With the feature `seen_locks` nobody waits there, but
//! asks again and again.

use std::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Waits for the lock.
#[inline]
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    #[cfg(feature = "seen_locks")]
    return seen(|| mutex.try_lock());
    #[cfg(not(feature = "seen_locks"))]
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}

/// Waits for the reading side.
#[inline]
pub fn read<T>(both: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    #[cfg(feature = "seen_locks")]
    return seen(|| both.try_read());
    #[cfg(not(feature = "seen_locks"))]
    both.read().unwrap_or_else(|poison| poison.into_inner())
}

/// Waits for the writing side.
pub fn write<T>(both: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    #[cfg(feature = "seen_locks")]
    return seen(|| both.try_write());
    #[cfg(not(feature = "seen_locks"))]
    both.write().unwrap_or_else(|poison| poison.into_inner())
}

#[cfg(feature = "seen_locks")]
fn seen<G>(try_it: impl Fn() -> std::sync::TryLockResult<G>) -> G {
    loop {
        match try_it() {
            Ok(guard) => return guard,
            Err(std::sync::TryLockError::Poisoned(poison)) => return poison.into_inner(),
            Err(std::sync::TryLockError::WouldBlock) => std::thread::yield_now(),
        }
    }
}

/// What the lock holds, for whoever has it alone.
#[inline]
pub fn own<T>(mutex: &mut Mutex<T>) -> &mut T {
    mutex.get_mut().unwrap_or_else(|poison| poison.into_inner())
}
