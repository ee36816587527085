//! What a guest's cloud-init is told: a small disk labelled `cidata`, made anew at each start.
//!
//! # Theory of operation
//! cloud-init's data source NoCloud takes a FAT file system with that label and two files in it:
//! ```text
//! meta-data     instance-id: the VM's name, so the same at each start; host name; public keys
//! user-data     the configuration's own file as it is; else what `user` comes to
//! vendor-data   what `user` comes to, beside a file of the configuration's own
//! ```
//! Addresses, routes and name servers are not in it: a guest learns those by DHCP and router
//! advertisement. The disk lies in sealed memory, which the vessel gets as a descriptor for reading
//! only: there is no file that could be out of date.
//!
//! # Limits
//! cloud-init makes accounts and takes keys once for an instance-id: what is changed later in the
//! configuration, the guest learns when its disk begins anew.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use super::disk::{Access, OpenDisk};
use super::fat;
use crate::config::{DiskFormat, Seed};

/// Octets of the longest user data.
const LONGEST: u64 = 1 << 20;
/// Octets of the disk beside what is in its files, tables and the halves of clusters included.
const ROOM: usize = 1 << 20;
/// The label, filled up as FAT does.
const LABEL: [u8; 11] = *b"CIDATA     ";

/// The disk, open.
pub fn open(vm: &str, hostname: &str, seed: &Seed) -> io::Result<OpenDisk> {
    let user_data = seed.user_data.as_deref().map(read).transpose()?;
    let image = image(&files(vm, hostname, seed, user_data))?;
    let memory =
        memfd_create(format!("seed-{vm}"), MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(memory);
    file.write_all(&image)?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fcntl_add_seals(&file, seals)?;
    // Opened again, because the way in decides what may be done.
    let readonly = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let access = Access::Descriptor(readonly.into());
    Ok(OpenDisk { access, format: DiskFormat::Raw, device: false, readonly: true, over: None })
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    let mut octets = Vec::new();
    let file = File::open(path).map_err(named)?;
    file.take(LONGEST.saturating_add(1)).read_to_end(&mut octets).map_err(named)?;
    if octets.len() as u64 > LONGEST {
        let text = format!("longer than {LONGEST} octets, which is too much for user data");
        return Err(named(io::Error::other(text)));
    }
    Ok(octets)
}

/// The files by name. Texts stand in quotes as JSON has them, which YAML reads too.
fn files(
    vm: &str,
    hostname: &str,
    seed: &Seed,
    user_data: Option<Vec<u8>>,
) -> Vec<(&'static str, Vec<u8>)> {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut meta_data = format!(
        "instance-id: {}\nlocal-hostname: {}\n",
        quoted(&format!("ipvisor-{vm}")),
        quoted(hostname)
    );
    if !seed.ssh_keys.is_empty() {
        meta_data.push_str("public-keys:\n");
        for key in &seed.ssh_keys {
            meta_data.push_str(&format!("  - {}\n", quoted(key)));
        }
    }
    let mut own = "#cloud-config\n".to_owned();
    if let Some(user) = &seed.user {
        own.push_str(&format!("user: {}\n", quoted(user)));
        if user == "root" {
            // Keys for root are only there to say that root must not log in, unless this says so.
            own.push_str("disable_root: false\n");
        }
    }
    let (own, mut files) = (own.into_bytes(), vec![("meta-data", meta_data.into_bytes())]);
    match user_data {
        None => files.push(("user-data", own)),
        Some(theirs) => {
            files.push(("user-data", theirs));
            if seed.user.is_some() {
                files.push(("vendor-data", own));
            }
        }
    }
    files
}

/// A FAT file system with these files.
fn image(files: &[(&str, Vec<u8>)]) -> io::Result<Vec<u8>> {
    let octets = files.iter().map(|(_, f)| f.len()).fold(ROOM, usize::saturating_add);
    let files: Vec<_> = files.iter().map(|(name, f)| (*name, f.as_slice())).collect();
    fat::image(&LABEL, octets.next_multiple_of(1 << 20), &files)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::os::unix::fs::FileExt as _;
    use std::process::Command;

    use fatfs::{FileSystem, FsOptions};

    use super::*;

    fn seed(user: Option<&str>, keys: &[&str]) -> Seed {
        let ssh_keys = keys.iter().map(|k| (*k).to_owned()).collect();
        Seed { user: user.map(str::to_owned), ssh_keys, user_data: None }
    }

    fn text<'a>(files: &'a [(&str, Vec<u8>)], name: &str) -> &'a str {
        let found = files.iter().find(|(n, _)| *n == name);
        found.map_or("", |(_, octets)| std::str::from_utf8(octets).unwrap())
    }

    #[test]
    fn keys_and_names_are_quoted_and_the_instance_is_the_same_each_time() {
        let told = seed(Some("admin"), &["ssh-ed25519 AAAA a: \"b\""]);
        let files = files("web", "web.example", &told, None);
        let expected = "instance-id: \"ipvisor-web\"\nlocal-hostname: \"web.example\"\n\
                        public-keys:\n  - \"ssh-ed25519 AAAA a: \\\"b\\\"\"\n";
        assert_eq!(text(&files, "meta-data"), expected);
        assert_eq!(text(&files, "user-data"), "#cloud-config\nuser: \"admin\"\n");
        assert_eq!(files.len(), 2);
    }

    #[test]
    fn a_file_of_ones_own_is_the_user_data_as_it_is() {
        let own = b"#!/bin/sh\nexit 0\n".to_vec();
        let with = files("web", "web", &seed(Some("root"), &[]), Some(own.clone()));
        assert_eq!(text(&with, "user-data").as_bytes(), own);
        assert!(text(&with, "vendor-data").contains("disable_root: false"));
        let without = files("web", "web", &seed(None, &[]), Some(own));
        assert_eq!(without.len(), 2);
    }

    #[test]
    fn the_disk_is_read_back_and_cannot_be_written() {
        let disk = open("web", "web", &seed(None, &["ssh-ed25519 AAAA a"])).unwrap();
        let Access::Descriptor(fd) = disk.access else { panic!() };
        let file = File::from(fd);
        assert!(disk.readonly && file.write_at(b"x", 0).is_err());
        let mut octets = Vec::new();
        (&file).read_to_end(&mut octets).unwrap();
        let system = FileSystem::new(Cursor::new(octets), FsOptions::new()).unwrap();
        assert_eq!(system.volume_label_as_bytes(), b"CIDATA");
        let mut found = String::new();
        system.root_dir().open_file("meta-data").unwrap().read_to_string(&mut found).unwrap();
        assert!(found.starts_with("instance-id: \"ipvisor-web\"\n"), "{found}");
    }

    #[test]
    fn another_program_finds_the_label_by_which_cloud_init_looks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed");
        let large = vec![b'#'; LONGEST as usize];
        for user_data in [None, Some(large)] {
            std::fs::write(&path, image(&files("a", "a", &seed(None, &[]), user_data)).unwrap())
                .unwrap();
            let found = Command::new("blkid").arg("-p").arg(&path).output().unwrap();
            let found = String::from_utf8_lossy(&found.stdout).into_owned();
            assert!(
                found.contains("LABEL=\"CIDATA\"") && found.contains("TYPE=\"vfat\""),
                "{found}"
            );
        }
    }
}
