//! A Debian image made by `ipvisor image debian`, as people use it: two VMs with clones of it, one
//! started by BIOS and one by UEFI, found on the LAN by the addresses that they learned there, and
//! entered with the key that the configuration gave them.
//!
//! Under software emulation a guest with systemd takes minutes: a test for the long run.
#![cfg(feature = "long")]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lab::command::{Finished, finish, output, wait_until};
use lab::instance::Instance;
use lab::paths;
use lab::scene::{Scene, vm};

/// How long a guest may take from its start to a login.
const BOOT: Duration = Duration::from_secs(900);
/// Octets of the clones' disks: twice as many as the image's.
const SIZE: u64 = 4 << 30;

/// The image of these sources: from the cache, or made now.
fn image() -> PathBuf {
    let mut hasher = DefaultHasher::new();
    let dir = paths::workspace().join("crates/ipvisor/src/image");
    for file in ["boot.rs", "mod.rs", "tree.rs"] {
        std::fs::read(dir.join(file)).unwrap().hash(&mut hasher);
    }
    let _lock = paths::Lock::take("debian").unwrap();
    let path = paths::cache().join(format!("debian-{:016x}.qcow2", hasher.finish()));
    if !path.exists() {
        std::fs::create_dir_all(paths::cache()).unwrap();
        let mut make = Command::new(paths::ipvisor().unwrap());
        println!("{}", output(make.args(["image", "debian"]).arg(&path)).unwrap());
    }
    path
}

fn sha256(path: &Path) -> String {
    output(Command::new("sha256sum").arg("-b").arg(path)).unwrap()
}

/// A host with an instance on it, and a key to its guests.
struct Stage {
    scene: Scene,
    instance: Instance,
    key: PathBuf,
    _dir: tempfile::TempDir,
}

impl Stage {
    fn set(image: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        output(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key))
            .unwrap();
        let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
        let scene = Scene::set().unwrap();
        let data_dir = dir.path().join("data");
        let mut config = format!("[host]\ndata_dir = {data_dir:?}\n{}", scene.network());
        for (number, name, firmware) in [(0, "web", "bios"), (1, "db", "uefi")] {
            let [v4, v6] = vm(number);
            config.push_str(&format!(
                "[vm.{name}]\ndisk = {{ image = {image:?}, size = \"{}M\" }}\n\
                 firmware = \"{firmware}\"\nuser = \"admin\"\nssh_keys = [{:?}]\nmemory = \"512M\"\n\
                 addresses = [\"{v4}\", \"{v6}\"]\n",
                SIZE >> 20,
                public.trim(),
            ));
        }
        let instance = Instance::up(&scene.host, &config).unwrap();
        Self { scene, instance, key, _dir: dir }
    }

    /// Runs a command in the guest, from the machine outside.
    fn ssh(&self, to: IpAddr, command: &str) -> lab::Result<Finished> {
        let mut ssh = self.scene.outside.command("ssh");
        for option in [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "BatchMode=yes",
            "ConnectTimeout=20",
            "LogLevel=ERROR",
        ] {
            ssh.args(["-o", option]);
        }
        finish(ssh.arg("-i").arg(&self.key).arg(format!("admin@{to}")).arg(command))
    }

    /// The same, as soon as the guest lets anybody in.
    fn in_guest(&self, to: IpAddr, command: &str) -> String {
        let mut last = String::new();
        let what = || format!("`{command}` at {to}\n{}", self.consoles());
        wait_until(BOOT, what, || {
            let end = self.ssh(to, command)?;
            last = format!("{end:?}");
            if !end.status.success() {
                std::thread::sleep(Duration::from_secs(3));
            }
            Ok(end.status.success().then_some(end.stdout))
        })
        .unwrap_or_else(|error| panic!("{error}\n{last}"))
    }

    /// The ends of what the guests' consoles showed.
    fn consoles(&self) -> String {
        let console = |name: &&str| {
            let path = self.instance.state_dir().join(format!("vm/{name}.console.log"));
            let shown = std::fs::read(path).unwrap_or_default();
            let end =
                String::from_utf8_lossy(&shown[shown.len().saturating_sub(2000)..]).into_owned();
            format!("--- {name}\n{end}\n")
        };
        ["web", "db"].iter().map(console).collect()
    }
}

#[test]
fn an_image_from_the_archive_starts_as_two_clones_that_are_on_the_lan_by_themselves() {
    let image = image();
    let before = sha256(&image);
    let stage = Stage::set(&image);
    for (number, name) in [(0, "web"), (1, "db")] {
        let addresses = vm(number);
        for to in addresses {
            assert_eq!(stage.in_guest(to, "hostname").trim(), name);
        }
        let to = addresses[0];
        let has = stage.in_guest(to, "ip -o addr show scope global");
        for address in addresses {
            assert!(has.contains(&format!(" {address}/")), "{name}: {has}");
        }
        // The guest has the clone's size, and has made use of it.
        assert_eq!(stage.in_guest(to, "cat /sys/block/vda/size").trim(), (SIZE / 512).to_string());
        stage.in_guest(to, "cloud-init status --wait >&2");
        let root: u64 =
            stage.in_guest(to, "df -B1M --output=size / | tail -1").trim().parse().unwrap();
        assert!(root > (SIZE >> 20) * 9 / 10, "{name}: {root} MiB");
        stage.in_guest(to, &format!("echo {name} >mine && sync"));
        let uefi = stage.in_guest(to, "test -d /sys/firmware/efi && echo uefi || echo bios");
        assert_eq!(uefi.trim(), ["bios", "uefi"][usize::from(number)]);
    }

    // What update-grub writes is what the next start reads, under both firmwares.
    for (number, name) in [(0, "web"), (1, "db")] {
        let to = vm(number)[0];
        assert!(stage.in_guest(to, "cat /proc/cmdline").contains("BOOT_IMAGE=/vmlinuz "));
        let boot = stage.in_guest(to, "cat /proc/sys/kernel/random/boot_id");
        stage.in_guest(to, "sudo update-grub && sync");
        let _ = stage.ssh(to, "sudo systemctl reboot");
        let again = wait_until(
            BOOT,
            || format!("{name} again\n{}", stage.consoles()),
            || {
                let end = stage.ssh(to, "cat /proc/sys/kernel/random/boot_id /proc/cmdline")?;
                Ok((end.status.success() && !end.stdout.starts_with(&boot)).then_some(end.stdout))
            },
        );
        let again = again.unwrap();
        assert!(again.contains("BOOT_IMAGE=/boot/vmlinuz-"), "{name}: {again}");
        assert_eq!(stage.in_guest(to, "cat mine").trim(), name);
        let status = stage.instance.ps().unwrap();
        assert!(status["vms"].as_array().unwrap().iter().all(|vm| vm["restarts"] == 0), "{status}");
    }

    let Stage { instance, _dir: dir, scene: _scene, .. } = stage;
    instance.down().unwrap();
    assert_eq!(sha256(&image), before, "the image has changed");
    for name in ["web", "db"] {
        let own = dir.path().join("data/vm").join(name);
        let clone = own.join(image.file_name().unwrap());
        let check = output(Command::new("qemu-img").arg("check").arg(&clone)).unwrap();
        assert!(check.contains("No errors were found"), "{name}: {check}");
        assert_eq!(own.join("uefi-vars.fd").exists(), name == "db");
    }
}
