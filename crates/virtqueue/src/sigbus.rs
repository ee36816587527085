//! Memory that its owner takes away: SIGBUS, turned into zeroes and a mark on one mapping.
//!
//! # Why it exists
//! Guest memory is a file that the front end may shrink while the base has it mapped. The next
//! access to what is gone raises SIGBUS, which by default ends the process, and with it the network
//! of every other guest.
//!
//! # Theory of operation
//! ```text
//! access -> SIGBUS -> handler: which mapping? --known--> zeroes from that page to the mapping's end,
//!                         |                              private to us; the mapping marked torn;
//!                         |                              access repeated
//!                         '------- unknown -----------> whoever handled SIGBUS before
//! ```
//! A file that was shrunk has lost all that follows, too. Mended page by page, a chain of buffers
//! on every second page would cut the mapping into more pieces than a process may have; so it is
//! two pieces, however it is met. The access goes on with zeroes. The rings look at [`Mapping::is_torn`](crate::Mapping::is_torn)
//! once per batch, and at every other fault, and stop with [`RingFault::MemoryTorn`].
//!
//! All mappings are entered into a list of slots that is only ever prepended to; slots of mappings
//! that are gone are used again. The handler walks it without locks: a slot carries a sequence
//! number that is odd while the slot is being changed. A slot that changes under the handler's eyes
//! cannot be the one it looks for, because a mapping is entered before it can be reached and taken
//! out after.
//!
//! # Limits
//! Until [`install`] is called SIGBUS does what it always did. A system call that meets missing
//! memory fails with EFAULT and raises nothing.
//!
//! [`RingFault::MemoryTorn`]: crate::RingFault::MemoryTorn

use std::ffi::{c_int, c_void};
use std::io;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

/// Counts torn pages of the whole process.
static TEARS: AtomicU32 = AtomicU32::new(0);
/// The first slot.
static SLOTS: AtomicPtr<Slot> = AtomicPtr::new(null_mut());
/// Slots without a mapping.
static FREE: Mutex<Vec<&'static Slot>> = Mutex::new(Vec::new());
/// What handled SIGBUS before us; set before our handler is.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// A place in the list of mappings. Never freed.
#[derive(Debug)]
struct Slot {
    next: *const Slot,
    /// Odd while `start`, `len` and `page` are being changed.
    sequence: AtomicU32,
    start: AtomicUsize,
    /// Zero: no mapping.
    len: AtomicUsize,
    page: AtomicUsize,
    torn: AtomicBool,
}

// SAFETY: `next` is set before the slot is shared and never changed; it leads to a slot that is
// never freed. All else is atomic.
unsafe impl Send for Slot {}
// SAFETY: as above.
unsafe impl Sync for Slot {}

impl Slot {
    /// Only under the lock of `FREE`, or by the slot's one owner.
    fn set(&self, start: usize, len: usize, page: usize) {
        let before = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(before.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.len.store(len, Ordering::Relaxed);
        self.page.store(page, Ordering::Relaxed);
        self.sequence.store(before.wrapping_add(2), Ordering::Release);
    }

    /// What this mapping holds from the page of `address` on, as start and length; `None` if the
    /// address is not in this mapping. Async-signal-safe.
    fn rest_from(&self, address: usize) -> Option<(usize, usize)> {
        let before = self.sequence.load(Ordering::Acquire);
        let start = self.start.load(Ordering::Relaxed);
        let len = self.len.load(Ordering::Relaxed);
        let page = self.page.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        if before & 1 == 1 || self.sequence.load(Ordering::Relaxed) != before {
            return None;
        }
        let offset = address.checked_sub(start)?;
        if offset >= len {
            return None;
        }
        let whole_pages = offset.checked_sub(offset.checked_rem(page)?)?;
        Some((start.checked_add(whole_pages)?, len.checked_sub(whole_pages)?))
    }
}

/// A mapping's entry in the list, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Entry(&'static Slot);

impl Entry {
    /// Enters `len` octets at `start`, a multiple of `page`, the size in which the kernel maps
    /// them.
    pub(crate) fn new(start: usize, len: usize, page: usize) -> Self {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = free.pop() {
            slot.torn.store(false, Ordering::Relaxed);
            slot.set(start, len, page);
            return Self(slot);
        }
        // The lock is held: nobody else prepends.
        let slot: &'static Slot = Box::leak(Box::new(Slot {
            next: SLOTS.load(Ordering::Relaxed),
            sequence: AtomicU32::new(0),
            start: AtomicUsize::new(start),
            len: AtomicUsize::new(len),
            page: AtomicUsize::new(page),
            torn: AtomicBool::new(false),
        }));
        SLOTS.store(std::ptr::from_ref(slot).cast_mut(), Ordering::Release);
        Self(slot)
    }

    /// A page of this mapping was lost.
    pub(crate) fn is_torn(&self) -> bool {
        self.0.torn.load(Ordering::Relaxed)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.0.set(0, 0, 0);
        FREE.lock().unwrap_or_else(PoisonError::into_inner).push(self.0);
    }
}

/// How often any mapping of this process was torn.
#[inline]
pub(crate) fn tears() -> u32 {
    TEARS.load(Ordering::Acquire)
}

/// Sets the process's SIGBUS handler. To be called once, early; later calls do nothing.
pub fn install() -> io::Result<()> {
    let mut previous = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: asks for the present disposition only; the kernel fills `previous` on success.
    if unsafe { libc::sigaction(libc::SIGBUS, null(), previous.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: filled by the successful call.
    let previous = unsafe { previous.assume_init() };
    if PREVIOUS.set(previous).is_err() {
        return Ok(());
    }
    // SAFETY: all-zero is a valid `sigaction`: default action, empty mask, no flags.
    let mut ours: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_sigbus;
    ours.sa_sigaction = handler as usize;
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    // SAFETY: `on_sigbus` has the signature that SA_SIGINFO asks for and is async-signal-safe.
    if unsafe { libc::sigaction(libc::SIGBUS, &ours, null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The handler: atomics, one `mmap` without libc (so `errno` stays), or the previous handler.
extern "C" fn on_sigbus(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t` to a handler set with SA_SIGINFO.
    let code = unsafe { (*info).si_code };
    // A code above zero: raised by the kernel for an access, so there is an address.
    if code > 0 {
        // SAFETY: as above.
        let address = unsafe { (*info).si_addr() } as usize;
        if mend(address) {
            return;
        }
    }
    pass_on(signal, code > 0, info, context);
}

/// Puts zeroes at `address`, and at all that follows in the same mapping, if it lies in one of ours.
fn mend(address: usize) -> bool {
    let mut next = SLOTS.load(Ordering::Acquire).cast_const();
    // SAFETY: slots are never freed, and complete before they are entered.
    while let Some(slot) = unsafe { next.as_ref() } {
        next = slot.next;
        let Some((start, len)) = slot.rest_from(address) else { continue };
        // SAFETY: the range lies in a mapping of ours that is being accessed at this moment, so it
        // lives and nobody else's memory is replaced; all access to it is by raw copies and
        // atomics, which may read zeroes from one moment to the next.
        let mended = unsafe {
            mmap_anonymous(
                std::ptr::with_exposed_provenance_mut(start),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE,
            )
        };
        if mended.is_err() {
            return false;
        }
        slot.torn.store(true, Ordering::Relaxed);
        TEARS.fetch_add(1, Ordering::Release);
        return true;
    }
    false
}

/// Does what would have been done without us.
fn pass_on(signal: c_int, is_fault: bool, info: *mut libc::siginfo_t, context: *mut c_void) {
    let (action, flags) = match PREVIOUS.get() {
        Some(previous) => (previous.sa_sigaction, previous.sa_flags),
        None => (libc::SIG_DFL, 0),
    };
    if action == libc::SIG_IGN && !is_fault {
        return;
    }
    // The kernel does not let a fault be ignored either.
    if action == libc::SIG_DFL || action == libc::SIG_IGN {
        // SAFETY: sets the default action. A fault is repeated when the handler returns; a signal
        // that somebody sent is sent again, and is pending until then.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            if !is_fault {
                libc::raise(signal);
            }
        }
    } else if flags & libc::SA_SIGINFO != 0 {
        // SAFETY: a handler set with SA_SIGINFO has this signature.
        let handler = unsafe {
            std::mem::transmute::<usize, extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void)>(
                action,
            )
        };
        handler(signal, info, context);
    } else {
        // SAFETY: a handler set without SA_SIGINFO has this signature.
        let handler = unsafe { std::mem::transmute::<usize, extern "C" fn(c_int)>(action) };
        handler(signal);
    }
}
