//! Asks for memory ahead of use.

/// Asks for the cache line that a bucket is, so that it is on its way when a look-up comes to it.
#[inline(always)]
pub(super) fn ask<B>(bucket: &B) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint; it reads nothing, and no address makes it fail.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(bucket).cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bucket;
}
