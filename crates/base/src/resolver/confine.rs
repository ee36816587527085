//! Takes everything away from the resolver that it does not need.
//!
//! # Theory of operation
//! ```text
//! begin    death with the base, no new privileges, no core dumps, limits on memory and descriptors
//! leave    user and group "nobody" and no others (where it is root), no capabilities
//! lock_in  a list of system calls: what is not on it ends the process
//! ```
//! `begin` and `leave` come first of all; `lock_in` when the sockets from the base are there, before
//! anything that a guest or a server said is read. What is left: to talk on the sockets it has, to open
//! Internet sockets, to use memory up to its limit, to write to standard error. Files cannot be opened.
//!
//! # Limits
//! It may ask any address of the Internet by UDP and TCP, as the host itself may: to ask servers outside
//! is what it is for.

use std::collections::BTreeMap;
use std::io;

use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Gid, Resource, Rlimit, Signal, Uid, geteuid, getppid, getrlimit,
    set_dumpable_behavior, set_parent_process_death_signal, setrlimit,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, set_capabilities,
    set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// The user and the group that own nothing.
const NOBODY: u32 = 65534;
/// Octets of data that it may have.
const MEMORY: u64 = 256 << 20;
/// Descriptors that it may have.
const DESCRIPTORS: u64 = 2048;

/// What can be taken away at once. The process ends with `parent`, the one that started it.
pub fn begin(parent: u32) -> io::Result<()> {
    set_no_new_privs(true)?;
    for (resource, most) in
        [(Resource::Core, 0), (Resource::Data, MEMORY), (Resource::Nofile, DESCRIPTORS)]
    {
        let most = getrlimit(resource).maximum.map_or(most, |already| already.min(most));
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    leave()?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // After the user has changed, for that would undo it.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let lives = getppid().is_some_and(|pid| pid.as_raw_nonzero().get().unsigned_abs() == parent);
    if lives { Ok(()) } else { Err(io::Error::other("the base has ended")) }
}

/// Becomes nobody, without capabilities. In a user namespace there may be no such user; then the
/// capabilities are all that can be given up.
fn leave() -> io::Result<()> {
    clear_ambient_capability_set()?;
    if geteuid().is_root() {
        match become_nobody() {
            Err(Errno::PERM | Errno::INVAL) => {}
            other => other?,
        }
    }
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    Ok(set_capabilities(None, sets)?)
}

fn become_nobody() -> rustix::io::Result<()> {
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    set_thread_groups(&[])?;
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)
}

/// System calls that are allowed with whatever arguments.
const CALLS: &[libc::c_long] = &[
    // Its sockets.
    libc::SYS_connect,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_getsockopt,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_close,
    // Settings, and its last words.
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_poll,
    libc::SYS_ppoll,
    // Memory, time and chance.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_clock_gettime,
    libc::SYS_getrandom,
    libc::SYS_futex,
    // To end.
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// From now on only these system calls.
pub fn lock_in() -> Result<(), seccompiler::Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        CALLS.iter().map(|call| (*call, Vec::new())).collect();
    // Internet sockets, and none of another kind.
    let family = |family: libc::c_int| {
        let family = u64::from(family.unsigned_abs());
        let is = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, family)?;
        SeccompRule::new(vec![is])
    };
    rules.insert(libc::SYS_socket, vec![family(libc::AF_INET)?, family(libc::AF_INET6)?]);
    // Whether a descriptor is open: builds with debug assertions ask before they close one.
    let asks = u64::from(libc::F_GETFD.unsigned_abs());
    let asks = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, asks)?;
    rules.insert(libc::SYS_fcntl, vec![SeccompRule::new(vec![asks])?]);
    // A signal to itself: so a panic ends it.
    let own = rustix::process::getpid().as_raw_nonzero().get().unsigned_abs();
    let own = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, own.into())?;
    rules.insert(libc::SYS_tgkill, vec![SeccompRule::new(vec![own])?]);
    // Memory that nobody can execute.
    let executable = u64::from(libc::PROT_EXEC.unsigned_abs());
    let data =
        SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(executable), 0)?;
    let mmap = SeccompRule::new(vec![data])?;
    rules.insert(libc::SYS_mmap, vec![mmap.clone()]);
    rules.insert(libc::SYS_mprotect, vec![mmap]);
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )?;
    let program: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&program)
}
