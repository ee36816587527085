//! The files that make a tree of packages a machine: how it starts, and where its network is.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use super::about;
use crate::failure::Failure;

/// Files by path, text and mode. `@UUID@` stands for that of the root file system.
const FILES: &[(&str, &str, u32)] = &[
    ("etc/fstab", "UUID=@UUID@ / ext4 errors=remount-ro 0 1\n", 0o644),
    ("etc/hostname", "debian\n", 0o644),
    ("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 debian\n::1 localhost ip6-localhost\n", 0o644),
    // Made by the first start, so that no two clones have the same.
    ("etc/machine-id", "", 0o444),
    (
        "etc/systemd/network/80-dhcp.network",
        "[Match]\nName=en* eth*\n\n[Network]\nDHCP=yes\nIPv6AcceptRA=yes\n",
        0o644,
    ),
    (
        "etc/cloud/cloud.cfg.d/90-ipvisor.cfg",
        "# The network is systemd-networkd's: DHCP and router advertisement.\n\
         network: {config: disabled}\ndatasource_list: [NoCloud, None]\n\
         # The one that it would make needs a package that is not there.\n\
         locale: false\n",
        0o644,
    ),
    (
        "etc/default/grub.d/50-console.cfg",
        "GRUB_TIMEOUT=1\nGRUB_CMDLINE_LINUX=\"console=tty0 console=ttyS0,115200\"\n\
         GRUB_TERMINAL=serial\nGRUB_SERIAL_COMMAND=\"serial --unit=0 --speed=115200\"\n\
         GRUB_DISABLE_OS_PROBER=true\n",
        0o644,
    ),
    // Until the first kernel that comes or goes: then update-grub writes one with all there are.
    (
        "boot/grub/grub.cfg",
        "serial --unit=0 --speed=115200\nterminal_input serial\nterminal_output serial\n\
         set timeout=0\n\
         menuentry Debian {\n    search --no-floppy --fs-uuid --set=root @UUID@\n    \
         linux /vmlinuz root=UUID=@UUID@ ro console=tty0 console=ttyS0,115200\n    \
         initrd /initrd.img\n}\n",
        0o644,
    ),
];

/// Has the boot menu written anew when a kernel comes or goes, where no package does.
const KERNEL_HOOK: &str = "#!/bin/sh\nset -e\n[ -x /usr/sbin/update-grub ] && exec update-grub\n";
const KERNEL_HOOKS: [&str; 2] =
    ["etc/kernel/postinst.d/zz-update-grub", "etc/kernel/postrm.d/zz-update-grub"];

/// Services that are to run, and what wants them.
const SERVICES: &[(&str, &str)] = &[
    ("systemd-networkd.service", "multi-user.target.wants"),
    ("systemd-networkd.socket", "sockets.target.wants"),
    ("systemd-resolved.service", "multi-user.target.wants"),
    ("ssh.service", "multi-user.target.wants"),
];

/// What is only true of the machine that the tree was made on, or of one machine at all.
const NOT_OURS: &[&str] =
    &["var/lib/dbus/machine-id", "etc/resolv.conf", "etc/apt/apt.conf.d/99mmdebstrap"];

/// Puts everything into the tree.
pub fn furnish(tree: &Path, uuid: &str) -> Result<(), Failure> {
    for (path, text, mode) in FILES {
        write(tree, path, &text.replace("@UUID@", uuid), *mode)?;
    }
    for path in KERNEL_HOOKS {
        if !tree.join(path).exists() {
            write(tree, path, KERNEL_HOOK, 0o755)?;
        }
    }
    for path in NOT_OURS {
        remove(&tree.join(path))?;
    }
    for key in list(&tree.join("etc/ssh"), |name| name.starts_with("ssh_host_"))? {
        remove(&key)?;
    }
    link("../run/systemd/resolve/stub-resolv.conf", &tree.join("etc/resolv.conf"))?;
    for (service, wanted_by) in SERVICES {
        let wants = tree.join("etc/systemd/system").join(wanted_by);
        fs::create_dir_all(&wants).map_err(|e| about(&wants, &e))?;
        let place = wants.join(service);
        if fs::symlink_metadata(&place).is_err() {
            link(&format!("/lib/systemd/system/{service}"), &place)?;
        }
    }
    for kind in ["i386-pc", "x86_64-efi"] {
        modules(&tree.join("usr/lib/grub").join(kind), &tree.join("boot/grub").join(kind))?;
    }
    Ok(())
}

fn write(tree: &Path, path: &str, text: &str, mode: u32) -> Result<(), Failure> {
    let path = tree.join(path);
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(|e| about(directory, &e))?;
    }
    // Never through a link that leads out of the tree.
    remove(&path)?;
    fs::write(&path, text).map_err(|e| about(&path, &e))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(|e| about(&path, &e))
}

fn remove(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(about(path, &e)),
        _ => Ok(()),
    }
}

fn link(to: &str, path: &Path) -> Result<(), Failure> {
    symlink(to, path).map_err(|e| about(path, &e))
}

fn list(
    directory: &Path,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<std::path::PathBuf>, Failure> {
    let entries = fs::read_dir(directory).map_err(|e| about(directory, &e))?;
    let paths = entries.flatten().filter(|e| wanted(&e.file_name().to_string_lossy()));
    Ok(paths.map(|e| e.path()).collect())
}

/// GRUB's modules beside its configuration, which names some.
fn modules(from: &Path, to: &Path) -> Result<(), Failure> {
    fs::create_dir_all(to).map_err(|e| about(to, &e))?;
    for file in list(from, |name| name.ends_with(".mod") || name.ends_with(".lst"))? {
        let name = file.file_name().unwrap_or_default();
        fs::copy(&file, to.join(name)).map_err(|e| about(&file, &e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_furnished_with_its_own_uuid_and_nothing_leads_out_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, outside) = (dir.path().join("tree"), dir.path().join("outside"));
        for kind in ["i386-pc", "x86_64-efi"] {
            let modules = tree.join("usr/lib/grub").join(kind);
            fs::create_dir_all(&modules).unwrap();
            fs::write(modules.join("ext2.mod"), "m").unwrap();
            fs::write(modules.join("boot.img"), "b").unwrap();
        }
        fs::create_dir_all(tree.join("etc/ssh")).unwrap();
        fs::write(tree.join("etc/ssh/ssh_host_rsa_key"), "k").unwrap();
        fs::write(&outside, "the host's").unwrap();
        for name in ["etc/resolv.conf", "etc/hostname"] {
            symlink(&outside, tree.join(name)).unwrap();
        }
        furnish(&tree, "0123-45").unwrap();
        assert_eq!(fs::read_to_string(&outside).unwrap(), "the host's");
        let fstab = fs::read_to_string(tree.join("etc/fstab")).unwrap();
        assert!(fstab.starts_with("UUID=0123-45 / ext4"), "{fstab}");
        let menu = fs::read_to_string(tree.join("boot/grub/grub.cfg")).unwrap();
        assert!(menu.contains("--set=root 0123-45\n") && menu.contains("root=UUID=0123-45 ro"));
        assert!(!tree.join("etc/ssh/ssh_host_rsa_key").exists());
        assert!(tree.join("boot/grub/i386-pc/ext2.mod").exists());
        assert!(!tree.join("boot/grub/i386-pc/boot.img").exists());
        let hook = fs::metadata(tree.join(KERNEL_HOOKS[0])).unwrap();
        assert_eq!(hook.permissions().mode() & 0o777, 0o755);
    }
}
