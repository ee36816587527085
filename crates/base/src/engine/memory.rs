//! The memory of a VM: made by the base, shared with its vessel and with whoever carries its
//! datagrams.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

/// Makes memory of `octets`, filled with zeroes, that can neither shrink nor grow: whoever maps it
/// is never struck by a part of it that is gone.
///
/// Nothing is reserved: pages come into being as the guest uses them.
pub fn sealed(vm: &str, octets: u64) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = memfd_create(format!("vm-{vm}"), flags)?;
    ftruncate(&memory, octets)?;
    fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_memory_keeps_its_size_and_its_seals() {
        let memory = sealed("web", 2 << 20).unwrap();
        for size in [0, 1 << 20, 4 << 20] {
            assert_eq!(ftruncate(&memory, size), Err(rustix::io::Errno::PERM));
        }
        assert_eq!(rustix::fs::fstat(&memory).unwrap().st_size, 2 << 20);
        assert!(fcntl_add_seals(&memory, SealFlags::WRITE).is_err());
    }
}
