//! QEMU's command line for one VM: a function of what the base decided, and of nothing else.
//!
//! # Theory of operation
//! Nothing of QEMU's own choosing is in the machine (`-nodefaults`, `-no-user-config`): every device
//! is named here. Memory and disks are descriptors that QEMU inherits; the network card speaks
//! vhost-user with the base; the console and QEMU's monitor are Unix sockets in the state
//! directory.
//!
//! # Decisions
//! - *No MSI-X for the network card without KVM* (`vectors=0`). When a vhost-user card starts, QEMU
//!   7.2 looks its interrupt up in a table that it makes for KVM only, and dies of a null pointer
//!   as the guest loads its driver. The card then interrupts by its pin, which costs the guest one
//!   read more per interrupt; without KVM that is not what takes time.
//! - *`-action panic=exit-failure` and a pvpanic device*: a guest whose kernel panics ends its
//!   vessel with a failure, which `restart = "on-failure"` sees.
//! - *The sandbox* takes away what a vessel never needs: programs, privileges, resource control.
//! - A guest's reboot resets the machine in place: the vessel stays, and the firmware starts
//!   whatever kernel is on the disk by then.
//! - *Every node of a disk is named*, the image under a clone and the formats of both with it. The one
//!   name that QEMU reads in a file and opens is that of the backing file of a qcow2 image that is no
//!   clone.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use datapath::names::Mac;

use super::accel::Accel;
use super::disk::{Access, OpenDisk};
use super::firmware::Uefi;
use crate::config::Kernel;

/// The program.
pub const PROGRAM: &str = "qemu-system-x86_64";

/// Descriptors of a ring of the network card: QEMU's most, so that a burst fits.
const RING_SIZE: u16 = 1024;

/// Everything that the command line depends on.
#[derive(Debug)]
pub struct Vessel<'a> {
    /// The VM's name.
    pub name: &'a str,
    /// Who executes its instructions.
    pub accel: Accel,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Octets of memory.
    pub memory: u64,
    /// The memory's descriptor, as the vessel inherits it.
    pub memory_fd: RawFd,
    /// Where the base awaits the network card.
    pub port: &'a Path,
    /// The network card's address.
    pub mac: Mac,
    /// Octets of the largest datagram that the guest is told of.
    pub mtu: Option<u16>,
    /// Queue pairs of the network card.
    pub queues: usize,
    /// A kernel to start directly.
    pub kernel: Option<&'a Kernel>,
    /// UEFI firmware, instead of a BIOS.
    pub uefi: Option<&'a Uefi>,
    /// Disks, in order.
    pub disks: &'a [OpenDisk],
    /// What cloud-init is told: a disk that nothing is started from.
    pub seed: Option<&'a OpenDisk>,
    /// The console's socket.
    pub console: &'a Path,
    /// Where everything that the console shows is written.
    pub console_log: &'a Path,
    /// The monitor's socket.
    pub monitor: &'a Path,
}

/// A command line in the making.
struct Arguments {
    words: Vec<OsString>,
    /// Sets of descriptors so far.
    sets: usize,
}

impl Arguments {
    fn flag(&mut self, option: &str) {
        self.words.push(option.into());
    }

    fn option(&mut self, option: &str, value: impl Into<OsString>) {
        self.words.extend([option.into(), value.into()]);
    }

    /// An option whose value is put together from pieces.
    fn joined(&mut self, option: &str, pieces: &[&OsStr]) {
        self.option(option, pieces.iter().copied().collect::<OsString>());
    }
}

/// A path as it stands inside an option: a comma there would begin the next property.
fn escaped(path: &Path) -> OsString {
    let octets = path.as_os_str().as_bytes().iter();
    OsString::from_vec(
        octets.flat_map(|o| std::iter::repeat_n(*o, if *o == b',' { 2 } else { 1 })).collect(),
    )
}

/// The command line, the program's name left out.
pub fn arguments(vessel: &Vessel<'_>) -> Vec<OsString> {
    let mut to = Arguments { words: Vec::new(), sets: 0 };
    machine(vessel, &mut to);
    card(vessel, &mut to);
    for (index, disk) in vessel.disks.iter().enumerate() {
        block(index, disk, vessel.kernel.is_none(), &mut to);
    }
    if let Some(seed) = vessel.seed {
        block(vessel.disks.len(), seed, false, &mut to);
    }
    boot(vessel, &mut to);
    sockets(vessel, &mut to);
    to.words
}

fn machine(vessel: &Vessel<'_>, to: &mut Arguments) {
    for flag in ["-nodefaults", "-no-user-config"] {
        to.flag(flag);
    }
    to.option("-name", format!("guest={}", vessel.name));
    to.option("-display", "none");
    to.option(
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    );
    to.option("-msg", "timestamp=on");
    let (accel, cpu) = match vessel.accel {
        Accel::Kvm => ("kvm", "host"),
        Accel::Tcg => ("tcg,thread=multi", "max"),
    };
    to.option("-accel", accel);
    to.option("-cpu", cpu);
    to.option("-smp", vessel.cpus.to_string());
    let (fd, size) = (vessel.memory_fd, vessel.memory);
    to.option(
        "-object",
        format!("memory-backend-file,id=memory,share=on,mem-path=/proc/self/fd/{fd},size={size}"),
    );
    to.option("-m", format!("size={}M", size >> 20));
    let mut kind = "q35,memory-backend=memory".to_owned();
    if let Some(uefi) = vessel.uefi {
        for (number, name, flash) in [(0, "code", &uefi.code), (1, "variables", &uefi.variables)] {
            node((&format!("{name}-file"), name), flash, "", to);
            kind.push_str(&format!(",pflash{number}={name}"));
        }
    }
    to.option("-machine", kind);
    to.option("-device", "virtio-rng-pci");
    to.option("-device", "pvpanic");
    to.option("-action", "panic=exit-failure");
}

fn card(vessel: &Vessel<'_>, to: &mut Arguments) {
    let path = escaped(vessel.port);
    to.joined("-chardev", &["socket,id=port,path=".as_ref(), &path, ",reconnect=1".as_ref()]);
    let several = vessel.queues > 1;
    let queues = if several { format!(",queues={}", vessel.queues) } else { String::new() };
    to.option("-netdev", format!("vhost-user,id=net,chardev=port{queues}"));
    let mtu = vessel.mtu.map(|mtu| format!(",host_mtu={mtu}")).unwrap_or_default();
    let vectors = match vessel.accel {
        // One for each ring, for the control queue and for changes of the configuration.
        Accel::Kvm if several => {
            format!(",vectors={}", vessel.queues.saturating_mul(2).saturating_add(2))
        }
        Accel::Kvm => String::new(),
        Accel::Tcg => ",vectors=0".to_owned(),
    };
    let mq = if several { ",mq=on" } else { "" };
    to.option(
        "-device",
        format!(
            "virtio-net-pci,netdev=net,mac={},rx_queue_size={RING_SIZE},\
             tx_queue_size={RING_SIZE},romfile={mtu}{mq}{vectors}",
            vessel.mac
        ),
    );
}

/// Where the octets of a disk are, and how they are arranged: two nodes, by their names. `rest` is
/// said of the second besides.
fn node((file, name): (&str, &str), disk: &OpenDisk, rest: &str, to: &mut Arguments) {
    let driver = if disk.device { "host_device" } else { "file" };
    let readonly = if disk.readonly { "on" } else { "off" };
    let filename = match &disk.access {
        Access::Descriptor(fd) => {
            let set = to.sets;
            to.sets = set.saturating_add(1);
            to.option("-add-fd", format!("fd={},set={set}", fd.as_raw_fd()));
            format!("/dev/fdset/{set}").into()
        }
        Access::Path(path) => escaped(path),
    };
    let front = format!("driver={driver},node-name={file},discard=unmap,filename=");
    let back = format!(",read-only={readonly}");
    to.joined("-blockdev", &[front.as_ref(), &filename, back.as_ref()]);
    let format = disk.format.as_str();
    to.option(
        "-blockdev",
        format!("driver={format},node-name={name},file={file},read-only={readonly}{rest}"),
    );
}

fn block(index: usize, disk: &OpenDisk, boots: bool, to: &mut Arguments) {
    let rest = match &disk.over {
        Some(image) => {
            let name = format!("image{index}");
            node((&format!("image-file{index}"), &name), image, "", to);
            format!(",backing={name}")
        }
        None => String::new(),
    };
    node((&format!("file{index}"), &format!("disk{index}")), disk, &rest, to);
    // A kernel that is started directly takes the first place in the order itself.
    let order = if boots { format!(",bootindex={index}") } else { String::new() };
    to.option("-device", format!("virtio-blk-pci,drive=disk{index}{order}"));
}

fn boot(vessel: &Vessel<'_>, to: &mut Arguments) {
    let Some(kernel) = vessel.kernel else { return };
    to.option("-kernel", &kernel.image);
    if let Some(initramfs) = &kernel.initramfs {
        to.option("-initrd", initramfs);
    }
    to.option("-append", &kernel.cmdline);
}

fn sockets(vessel: &Vessel<'_>, to: &mut Arguments) {
    let listen: &OsStr = ",server=on,wait=off".as_ref();
    let path = escaped(vessel.monitor);
    to.joined("-chardev", &["socket,id=monitor,path=".as_ref(), &path, listen]);
    to.option("-mon", "chardev=monitor,mode=control");
    let (path, log) = (escaped(vessel.console), escaped(vessel.console_log));
    to.joined(
        "-chardev",
        // Appended to, so that the file can be cut under the vessel.
        &[
            "socket,id=console,path=".as_ref(),
            &path,
            listen,
            ",logappend=on,logfile=".as_ref(),
            &log,
        ],
    );
    to.option("-serial", "chardev:console");
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::config::{Disk, DiskFormat};

    fn vessel<'a>(disks: &'a [OpenDisk], kernel: Option<&'a Kernel>) -> Vessel<'a> {
        Vessel {
            name: "web",
            accel: Accel::Tcg,
            cpus: 2,
            memory: 512 << 20,
            memory_fd: 9,
            port: Path::new("/run/i/port/web.sock"),
            mac: Mac([0x06, 0, 0, 0, 0, 1]),
            mtu: Some(9000),
            queues: 1,
            kernel,
            uefi: None,
            disks,
            seed: None,
            console: Path::new("/run/i/vm/web.console"),
            console_log: Path::new("/run/i/vm/web.console.log"),
            monitor: Path::new("/run/i/vm/web.monitor"),
        }
    }

    /// One line per option.
    fn lines(vessel: &Vessel<'_>) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for argument in arguments(vessel) {
            let argument = argument.into_string().unwrap();
            match lines.last_mut() {
                Some(last) if !argument.starts_with('-') => *last = format!("{last} {argument}"),
                _ => lines.push(argument),
            }
        }
        lines
    }

    #[test]
    fn a_vm_with_a_kernel_has_exactly_these_devices() {
        let kernel = Kernel {
            image: "/k/vmlinuz".into(),
            initramfs: Some("/k/initrd".into()),
            cmdline: "console=ttyS0 quiet".into(),
        };
        let expected = [
            "-nodefaults",
            "-no-user-config",
            "-name guest=web",
            "-display none",
            "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
            "-msg timestamp=on",
            "-accel tcg,thread=multi",
            "-cpu max",
            "-smp 2",
            "-object memory-backend-file,id=memory,share=on,mem-path=/proc/self/fd/9,size=536870912",
            "-m size=512M",
            "-machine q35,memory-backend=memory",
            "-device virtio-rng-pci",
            "-device pvpanic",
            "-action panic=exit-failure",
            "-chardev socket,id=port,path=/run/i/port/web.sock,reconnect=1",
            "-netdev vhost-user,id=net,chardev=port",
            "-device virtio-net-pci,netdev=net,mac=06:00:00:00:00:01,rx_queue_size=1024,\
             tx_queue_size=1024,romfile=,host_mtu=9000,vectors=0",
            "-kernel /k/vmlinuz",
            "-initrd /k/initrd",
            "-append console=ttyS0 quiet",
            "-chardev socket,id=monitor,path=/run/i/vm/web.monitor,server=on,wait=off",
            "-mon chardev=monitor,mode=control",
            "-chardev socket,id=console,path=/run/i/vm/web.console,server=on,wait=off,\
             logappend=on,logfile=/run/i/vm/web.console.log",
            "-serial chardev:console",
        ];
        assert_eq!(lines(&vessel(&[], Some(&kernel))), expected);
    }

    #[test]
    fn disks_come_by_descriptor_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str, format, contents: &[u8], readonly| {
            let path = dir.path().join(name);
            std::fs::write(&path, contents).unwrap();
            OpenDisk::open(&Disk { path, format, readonly, clone: None }).unwrap()
        };
        let backed = [&b"QFI\xfb\0\0\0\x03\0\0\0\0\0\0\0\x68"[..], &[0; 64]].concat();
        let disks = [
            open("a", DiskFormat::Raw, &[0; 16], true),
            open("b,c", DiskFormat::Qcow2, &backed, false),
        ];
        let found = lines(&vessel(&disks, None));
        let blocks: Vec<&str> = found
            .iter()
            .map(String::as_str)
            .filter(|l| {
                ["-add-fd", "-blockdev", "-device virtio-blk"].iter().any(|p| l.starts_with(p))
            })
            .collect();
        let Access::Descriptor(fd) = &disks[0].access else { panic!("{disks:?}") };
        let fd = fd.as_raw_fd();
        let doubled = dir.path().join("b,,c");
        assert_eq!(
            blocks,
            [
                format!("-add-fd fd={fd},set=0").as_str(),
                "-blockdev driver=file,node-name=file0,discard=unmap,filename=/dev/fdset/0,read-only=on",
                "-blockdev driver=raw,node-name=disk0,file=file0,read-only=on",
                "-device virtio-blk-pci,drive=disk0,bootindex=0",
                &format!(
                    "-blockdev driver=file,node-name=file1,discard=unmap,filename={},read-only=off",
                    doubled.display()
                ),
                "-blockdev driver=qcow2,node-name=disk1,file=file1,read-only=off",
                "-device virtio-blk-pci,drive=disk1,bootindex=1",
            ]
        );
        assert!(!found.iter().any(|l| l.starts_with("-kernel")));
    }

    /// A file for a node, open for reading or for writing.
    fn open(dir: &Path, name: &str, format: DiskFormat, readonly: bool) -> OpenDisk {
        let file = File::options().create(true).append(true).open(dir.join(name)).unwrap();
        let access = Access::Descriptor(file.into());
        OpenDisk { access, format, device: false, readonly, over: None }
    }

    fn fd(disk: &OpenDisk) -> RawFd {
        let Access::Descriptor(fd) = &disk.access else { panic!("{disk:?}") };
        fd.as_raw_fd()
    }

    #[test]
    fn a_clone_comes_with_its_image_and_the_seed_comes_last_and_starts_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let image = open(dir.path(), "image", DiskFormat::Raw, true);
        let clone = open(dir.path(), "clone", DiskFormat::Qcow2, false);
        let seed = open(dir.path(), "seed", DiskFormat::Raw, true);
        let fds = [&image, &clone, &seed].map(fd);
        let disks = [OpenDisk { over: Some(Box::new(image)), ..clone }];
        let found = lines(&Vessel { seed: Some(&seed), ..vessel(&disks, None) });
        let from = found.iter().position(|l| l.starts_with("-add-fd")).unwrap();
        assert_eq!(
            found[from..from + 11],
            [
                format!("-add-fd fd={},set=0", fds[0]).as_str(),
                "-blockdev driver=file,node-name=image-file0,discard=unmap,filename=/dev/fdset/0,read-only=on",
                "-blockdev driver=raw,node-name=image0,file=image-file0,read-only=on",
                &format!("-add-fd fd={},set=1", fds[1]),
                "-blockdev driver=file,node-name=file0,discard=unmap,filename=/dev/fdset/1,read-only=off",
                "-blockdev driver=qcow2,node-name=disk0,file=file0,read-only=off,backing=image0",
                "-device virtio-blk-pci,drive=disk0,bootindex=0",
                &format!("-add-fd fd={},set=2", fds[2]),
                "-blockdev driver=file,node-name=file1,discard=unmap,filename=/dev/fdset/2,read-only=on",
                "-blockdev driver=raw,node-name=disk1,file=file1,read-only=on",
                "-device virtio-blk-pci,drive=disk1",
            ]
        );
    }

    #[test]
    fn uefi_is_two_flash_memories_of_which_the_guest_writes_one() {
        let dir = tempfile::tempdir().unwrap();
        let uefi = Uefi {
            code: open(dir.path(), "code", DiskFormat::Raw, true),
            variables: open(dir.path(), "variables", DiskFormat::Raw, false),
        };
        let found = lines(&Vessel { uefi: Some(&uefi), ..vessel(&[], None) });
        for expected in [
            "-machine q35,memory-backend=memory,pflash0=code,pflash1=variables",
            "-blockdev driver=raw,node-name=code,file=code-file,read-only=on",
            "-blockdev driver=raw,node-name=variables,file=variables-file,read-only=off",
        ] {
            assert!(found.iter().any(|l| l == expected), "{expected}: {found:#?}");
        }
        assert!(!found.iter().any(|l| l == "-no-reboot"));
    }

    #[test]
    fn a_card_with_several_queue_pairs_has_vectors_for_all_of_them_where_it_has_any() {
        let card = |accel| {
            let all = lines(&Vessel { accel, queues: 4, ..vessel(&[], None) });
            assert!(all.contains(&"-netdev vhost-user,id=net,chardev=port,queues=4".to_owned()));
            let card = all.into_iter().find(|l| l.starts_with("-device virtio-net-pci"));
            card.unwrap().split_once(",host_mtu=9000").unwrap().1.to_owned()
        };
        assert_eq!(card(Accel::Kvm), ",mq=on,vectors=10");
        assert_eq!(card(Accel::Tcg), ",mq=on,vectors=0");
    }

    #[test]
    fn on_kvm_the_card_has_its_vectors_and_the_guest_the_hosts_processor() {
        let found = lines(&Vessel { accel: Accel::Kvm, mtu: None, ..vessel(&[], None) });
        assert!(found.contains(&"-accel kvm".to_owned()));
        assert!(found.contains(&"-cpu host".to_owned()));
        assert!(!found.iter().any(|l| l.contains("vectors=0") || l.contains("host_mtu")));
    }
}
