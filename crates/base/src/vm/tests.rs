//! VMs on QEMU, with guests that are a few instructions in the first sector of their disk.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::os::fd::BorrowedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, pidfd_send_signal, waitpid};

use super::*;
use crate::config::{CloneSize, Disk, DiskFormat, Engine, Firmware, Machine, Restart, Seed, Vm};
use crate::engine::spawn::{Lock, Vacancy};
use crate::ledger::Capacity;

/// Longest wait for anything: emulation on a busy machine is slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// Prints `!` on the serial line.
const HELLO: &[u8] = &[0xba, 0xf8, 0x03, 0xb0, b'!', 0xee];
/// Waits for ever.
const SLEEP: &[u8] = &[0xf4, 0xeb, 0xfd];
/// Powers the machine off.
const OFF: &[u8] = &[0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef];
/// Enables the power button and waits until it is pressed, interrupts off.
const AWAIT_BUTTON: &[u8] = &[
    0xfa, 0xba, 0x02, 0x06, 0xb8, 0x00, 0x01, 0xef, 0xba, 0x00, 0x06, 0xed, 0xf6, 0xc4, 0x01, 0x74,
    0xfa,
];
/// Tells the machine that the kernel panicked.
const PANIC: &[u8] = &[0xba, 0x05, 0x05, 0xb0, 0x01, 0xee];
/// Has the BIOS write the sector that the guest began with to the next place on its disk.
const WRITE: &[u8] = &[
    0x31, 0xc0, 0x8e, 0xc0, 0xb8, 0x01, 0x03, 0xbb, 0x00, 0x7c, 0xb9, 0x02, 0x00, 0xba, 0x80, 0x00,
    0xcd, 0x13,
];
/// Sends back whatever comes on the serial line.
const ECHO: &[u8] =
    &[0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xfb, 0xba, 0xf8, 0x03, 0xec, 0xee, 0xeb, 0xf1];

/// A keeper that remembers what it was told to keep.
#[derive(Default)]
struct Remembering(Mutex<BTreeMap<String, OwnedFd>>);

impl Remembering {
    fn keys(&self) -> Vec<String> {
        self.0.lock().unwrap().keys().cloned().collect()
    }
}

impl Keeper for Remembering {
    fn keep(&self, key: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        let fd = fd.try_clone_to_owned()?;
        self.0.lock().unwrap().insert(key.to_owned(), fd);
        Ok(())
    }

    fn forget(&self, key: &str) -> io::Result<()> {
        self.0.lock().unwrap().remove(key);
        Ok(())
    }

    fn forget_all(&self, prefix: &str) -> io::Result<()> {
        self.0.lock().unwrap().retain(|key, _| !key.starts_with(prefix));
        Ok(())
    }
}

/// The least that a vhost-user front end needs on the other side: it is offered VERSION_1, and
/// nothing it says matters.
fn port(path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            std::thread::spawn(move || answer_front_end(connection.unwrap()));
        }
    });
}

fn answer_front_end(mut connection: UnixStream) {
    const GET_FEATURES: u32 = 1;
    const GET_VRING_BASE: u32 = 11;
    let mut header = [0; 12];
    while connection.read_exact(&mut header).is_ok() {
        let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap());
        let mut payload = vec![0; word(8) as usize];
        connection.read_exact(&mut payload).unwrap();
        let answer: u64 = match word(0) {
            GET_FEATURES => 1 << 32,
            GET_VRING_BASE => 0,
            _ => continue,
        };
        let mut reply = Vec::new();
        for word in [word(0), 0x5, 8] {
            reply.extend(word.to_ne_bytes());
        }
        reply.extend(answer.to_ne_bytes());
        connection.write_all(&reply).unwrap();
    }
}

/// A state directory and what a base has around its VMs.
struct Scene {
    dir: tempfile::TempDir,
    keeper: Arc<Remembering>,
    events: Arc<Mutex<Vec<Event>>>,
    settled: Arc<AtomicU64>,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("vm")).unwrap();
        port(&dir.path().join("port"));
        let (keeper, events, settled) = <_>::default();
        Self { dir, keeper, events, settled }
    }

    /// A base: the first, or one that takes over.
    fn base(&self, cpus: u32) -> Vms {
        let (events, settled) = (self.events.clone(), self.settled.clone());
        Vms::new(Arc::new(Shared {
            state_dir: StateDir::at(self.dir.path()),
            data_dir: Some(self.dir.path().join("data")),
            keeper: self.keeper.clone(),
            ledger: Mutex::new(Ledger::new(Capacity { cpus, memory: 1 << 30 }, false)),
            accel: Accel::Tcg,
            qemu: None,
            events: Box::new(move |event| events.lock().unwrap().push(event)),
            settle: Box::new(move |pid| settled.store(pid.into(), Ordering::SeqCst)),
        }))
    }

    /// A VM whose guest runs `code`.
    fn plan(&self, name: &str, code: &[&[u8]], change: impl FnOnce(&mut Machine)) -> Plan {
        let path = self.dir.path().join(format!("{name}.img"));
        let mut sector = code.concat();
        sector.resize(510, 0);
        sector.extend([0x55, 0xaa]);
        // The firmware finds no geometry in a smaller disk.
        sector.resize(1 << 20, 0);
        std::fs::write(&path, sector).unwrap();
        let disk = Disk { path, format: DiskFormat::Raw, readonly: false, clone: None };
        let mut machine = Machine {
            cpus: 1,
            memory: 32 << 20,
            kernel: None,
            firmware: Firmware::Bios,
            disks: vec![disk],
            seed: None,
            restart: Restart::Never,
            autostart: true,
            after: Vec::new(),
            stop_timeout: PATIENCE,
        };
        change(&mut machine);
        let vm = Vm {
            network: "lan".to_owned(),
            addresses: Vec::new(),
            mac: None,
            queues: 1,
            mtu: None,
            hostname: name.to_owned(),
            engine: Engine::Qemu(machine),
        };
        Plan::new(name, &vm, self.dir.path().join("port"), Some(1500)).unwrap()
    }

    fn console_log(&self, name: &str) -> String {
        let path = self.dir.path().join("vm").join(format!("{name}.console.log"));
        std::fs::read_to_string(path).unwrap_or_default()
    }

    async fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let waiting = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let ended = tokio::time::timeout(PATIENCE, waiting).await;
        let messages = std::fs::read_to_string(self.dir.path().join("vm/a.log"));
        assert!(ended.is_ok(), "{what}: {:?}\n{messages:?}", self.events.lock().unwrap());
    }

    async fn running(&self, vms: &Vms, name: &str) {
        let state = || vms.status(name).unwrap().state;
        self.until("running", || state() == State::Running).await;
        self.until("booted", || self.console_log(name).contains('!')).await;
    }
}

/// What a test leaves running when it fails.
impl Drop for Scene {
    fn drop(&mut self) {
        for entry in std::fs::read_dir(self.dir.path().join("vm")).unwrap().flatten() {
            if entry.path().extension().is_some_and(|e| e == "pid")
                && let Ok(Vacancy::Taken(vessel)) = Lock::take(&entry.path())
            {
                let _ = pidfd_send_signal(&vessel.pidfd, Signal::KILL);
            }
        }
    }
}

async fn resting(vms: &Vms, name: &str) -> Status {
    tokio::time::timeout(PATIENCE, vms.at_rest(name)).await.unwrap();
    vms.status(name).unwrap()
}

#[tokio::test(flavor = "current_thread")]
async fn a_guest_is_started_talks_on_its_console_and_heeds_its_power_button() {
    let scene = Scene::new();
    let mut vms = scene.base(1);
    vms.add(scene.plan("a", &[HELLO, AWAIT_BUTTON, OFF, SLEEP], |_| {}), None).unwrap();
    assert_eq!(vms.to_start(), [("a".to_owned(), Vec::new())]);
    vms.start("a").await.unwrap();
    scene.running(&vms, "a").await;
    assert_eq!(scene.keeper.keys(), ["vm/a/memory", "vm/a/pidfd"]);
    assert!(matches!(vms.start("a").await, Err(VmError::Refused(_))));
    vms.stop("a", false).await.unwrap();
    let status = resting(&vms, "a").await;
    assert_eq!((status.state, status.note, status.pid), (State::Stopped, None, None));
    assert!(scene.keeper.keys().is_empty());
    assert!(matches!(vms.stop("a", false).await, Err(VmError::Refused(_))));
    assert!(matches!(vms.start("b").await, Err(VmError::Unknown(_))));
}

#[tokio::test(flavor = "current_thread")]
async fn what_a_guest_writes_is_in_its_clone_and_the_image_stays_as_it_was() {
    let scene = Scene::new();
    let mut vms = scene.base(2);
    for name in ["a", "b"] {
        let plan = scene.plan(name, &[HELLO, WRITE, OFF, SLEEP], |m| {
            m.disks[0].path = scene.dir.path().join("a.img");
            m.disks[0].clone = Some(CloneSize::Octets(1 << 30));
            let ssh_keys = vec!["ssh-ed25519 AAAA a".to_owned()];
            m.seed = Some(Seed { ssh_keys, ..Seed::default() });
        });
        vms.add(plan, None).unwrap();
    }
    let image = std::fs::read(scene.dir.path().join("a.img")).unwrap();
    for _ in 0..2 {
        for name in ["a", "b"] {
            vms.start(name).await.unwrap();
        }
        for name in ["a", "b"] {
            let off = resting(&vms, name).await;
            assert_eq!(off.note.as_deref(), Some("the guest powered itself off"));
        }
    }
    assert!(std::fs::read(scene.dir.path().join("a.img")).unwrap() == image);
    for name in ["a", "b"] {
        let clone = scene.dir.path().join("data/vm").join(name).join("a.qcow2");
        let read = format!("read -vP 85 {} 1", 512 + 510);
        for words in [&["qemu-img", "check"][..], &["qemu-io", "-c", &read]] {
            let mut command = std::process::Command::new(words[0]);
            let done = command.args(&words[1..]).arg(&clone).output().unwrap();
            assert!(done.status.success(), "{words:?}: {done:?}");
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_vm_with_uefi_has_variables_of_its_own() {
    let scene = Scene::new();
    let mut vms = scene.base(1);
    let uefi = |m: &mut Machine| (m.firmware, m.memory) = (Firmware::Uefi, 256 << 20);
    vms.add(scene.plan("a", &[HELLO], uefi), None).unwrap();
    vms.start("a").await.unwrap();
    // OVMF says what it tries to start; there is nothing that it could.
    scene.until("firmware", || scene.console_log("a").contains("BdsDxe")).await;
    assert!(scene.dir.path().join("data/vm/a/uefi-vars.fd").exists());
    vms.stop_all(true).await;
}

#[tokio::test(flavor = "current_thread")]
async fn the_console_carries_bytes_both_ways() {
    let scene = Scene::new();
    let mut vms = scene.base(1);
    vms.add(scene.plan("a", &[HELLO, ECHO], |_| {}), None).unwrap();
    vms.start("a").await.unwrap();
    scene.running(&vms, "a").await;
    let mut console = UnixStream::connect(&vms.console("a").unwrap().socket).unwrap();
    console.write_all(b"echo").unwrap();
    scene.until("echo", || scene.console_log("a").contains("echo")).await;
    vms.stop_all(true).await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_guest_that_ignores_its_power_button_is_ended_by_force() {
    let scene = Scene::new();
    let mut vms = scene.base(1);
    let plan = scene.plan("a", &[HELLO, SLEEP], |m| m.stop_timeout = Duration::from_millis(200));
    vms.add(plan, None).unwrap();
    vms.start("a").await.unwrap();
    scene.running(&vms, "a").await;
    vms.stop("a", false).await.unwrap();
    assert_eq!(resting(&vms, "a").await.state, State::Stopped);
}

#[tokio::test(flavor = "current_thread")]
async fn a_panic_is_a_failure_and_powering_off_is_none() {
    let scene = Scene::new();
    let mut vms = scene.base(2);
    let on_failure = |m: &mut Machine| m.restart = Restart::OnFailure;
    vms.add(scene.plan("a", &[HELLO, PANIC, SLEEP], on_failure), None).unwrap();
    vms.add(scene.plan("b", &[HELLO, OFF, SLEEP], on_failure), None).unwrap();
    vms.start("a").await.unwrap();
    vms.start("b").await.unwrap();
    let off = resting(&vms, "b").await;
    assert_eq!(off.note.as_deref(), Some("the guest powered itself off"));
    scene.until("a second start", || vms.status("a").unwrap().starts == 2).await;
    let events = scene.events.lock().unwrap().clone();
    let note = Some("the guest's kernel panicked".to_owned());
    let again_in = Some(Duration::from_secs(1));
    let what = Happening::State { state: State::BackingOff, note, again_in };
    assert!(events.contains(&Event { vm: "a".to_owned(), what }), "{events:?}");
    vms.stop_all(true).await;
    assert_eq!(vms.status("a").unwrap().state, State::Stopped);
}

#[tokio::test(flavor = "current_thread")]
async fn what_cannot_be_formed_says_why_and_keeps_nothing() {
    let scene = Scene::new();
    let mut vms = scene.base(1);
    vms.add(scene.plan("a", &[SLEEP], |m| m.cpus = 2), None).unwrap();
    let mut lost = scene.plan("b", &[SLEEP], |_| {});
    lost.machine.disks[0].path = "/nonexistent".into();
    vms.add(lost, None).unwrap();
    let refused = vms.start("a").await.unwrap_err().to_string();
    assert!(refused.starts_with("VM `a` needs 2 CPUs; of the machine's 1"), "{refused}");
    let refused = vms.start("b").await.unwrap_err().to_string();
    assert!(refused.contains("/nonexistent"), "{refused}");
    for vm in ["a", "b"] {
        let status = vms.status(vm).unwrap();
        assert_eq!(status.state, State::Failed);
        assert!(status.note.is_some());
    }
    assert_eq!(vms.shared.ledger().held().count(), 0);
}

#[tokio::test(flavor = "current_thread")]
async fn a_vessel_that_dies_of_itself_leaves_its_last_words() {
    let scene = Scene::new();
    let mut vms = scene.base(1);
    let plan = scene.plan("a", &[SLEEP], |m| {
        let image = "/dev/null".into();
        m.kernel = Some(crate::config::Kernel { image, initramfs: None, cmdline: String::new() });
    });
    vms.add(plan, None).unwrap();
    vms.start("a").await.unwrap();
    let status = resting(&vms, "a").await;
    assert_eq!(status.state, State::Failed);
    let note = status.note.unwrap();
    assert!(note.starts_with("ended with exit code 1: "), "{note}");
    assert!(!note.contains("qemu-system"), "{note}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_successor_takes_over_a_running_vm_and_its_ledger() {
    let scene = Scene::new();
    let code: &[&[u8]] = &[HELLO, AWAIT_BUTTON, OFF, SLEEP];
    let mut first = scene.base(1);
    first.add(scene.plan("a", code, |_| {}), None).unwrap();
    first.start("a").await.unwrap();
    scene.running(&first, "a").await;
    let before = first.status("a").unwrap();
    drop(first);

    let mut second = scene.base(1);
    let pidfd = scene.keeper.0.lock().unwrap()["vm/a/pidfd"].try_clone().unwrap();
    second.add(scene.plan("a", code, |_| {}), Some(pidfd)).unwrap();
    second.add(scene.plan("b", code, |_| {}), None).unwrap();
    let after = second.status("a").unwrap();
    assert_eq!((after.state, after.pid), (State::Running, before.pid));
    assert_eq!((after.starts, after.started_at), (1, before.started_at));
    assert_eq!(second.to_start(), [("b".to_owned(), Vec::new())]);
    let refused = second.start("b").await.unwrap_err().to_string();
    assert!(refused.contains("`a` has 1"), "{refused}");
    second.stop("a", false).await.unwrap();
    assert_eq!(resting(&second, "a").await.state, State::Stopped);
    second.start("b").await.unwrap();
    second.stop_all(true).await;
}

#[tokio::test(flavor = "current_thread")]
async fn all_are_stopped_in_the_reverse_of_their_order_and_one_that_ignores_it_is_forced() {
    let scene = Scene::new();
    let mut vms = scene.base(4);
    let heeds: &[&[u8]] = &[HELLO, AWAIT_BUTTON, OFF, SLEEP];
    let after = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    vms.add(scene.plan("a", heeds, |_| {}), None).unwrap();
    let deaf = scene.plan("b", &[HELLO, SLEEP], |m| {
        m.after = after(&["a"]);
        m.stop_timeout = Duration::from_millis(300);
    });
    vms.add(deaf, None).unwrap();
    vms.add(scene.plan("c", heeds, |m| m.after = after(&["b"])), None).unwrap();
    // Never started: it holds up nobody.
    vms.add(scene.plan("d", heeds, |m| m.after = after(&["a", "c"])), None).unwrap();
    for vm in ["a", "b", "c"] {
        vms.start(vm).await.unwrap();
    }
    for vm in ["a", "b", "c"] {
        scene.running(&vms, vm).await;
    }
    scene.events.lock().unwrap().clear();
    tokio::time::timeout(PATIENCE, vms.stop_all(false)).await.unwrap();
    let states = |event: &Event| match &event.what {
        Happening::State { state, .. } => Some((event.vm.clone(), *state)),
        _ => None,
    };
    let seen: Vec<_> = scene.events.lock().unwrap().iter().filter_map(states).collect();
    let each = |vm: &str| [State::Stopping, State::Stopped].map(|state| (vm.to_owned(), state));
    assert_eq!(seen, [each("c"), each("b"), each("a")].concat());
}

#[tokio::test(flavor = "current_thread")]
async fn all_are_stopped_at_once_by_force_whatever_their_order() {
    let scene = Scene::new();
    let mut vms = scene.base(2);
    vms.add(scene.plan("a", &[HELLO, SLEEP], |_| {}), None).unwrap();
    let second = scene.plan("b", &[HELLO, SLEEP], |m| m.after = vec!["a".to_owned()]);
    vms.add(second, None).unwrap();
    for vm in ["a", "b"] {
        vms.start(vm).await.unwrap();
        scene.running(&vms, vm).await;
    }
    scene.events.lock().unwrap().clear();
    tokio::time::timeout(PATIENCE, vms.stop_all(true)).await.unwrap();
    let events = scene.events.lock().unwrap();
    let first: Vec<&Happening> = events.iter().take(2).map(|event| &event.what).collect();
    let stopping = Happening::State { state: State::Stopping, note: None, again_in: None };
    assert_eq!(first, [&stopping, &stopping], "{events:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn one_that_is_left_stopped_is_not_started_by_a_successor() {
    let scene = Scene::new();
    let mut first = scene.base(1);
    first.add(scene.plan("a", &[SLEEP], |_| {}), None).unwrap();
    first.add(scene.plan("b", &[SLEEP], |_| {}), None).unwrap();
    first.leave_stopped("a");
    let record = scene.dir.path().join("vm/a.json");
    scene.until("written", || record.exists()).await;
    drop(first);
    let mut second = scene.base(1);
    for vm in ["a", "b"] {
        second.add(scene.plan(vm, &[SLEEP], |_| {}), None).unwrap();
    }
    assert_eq!(second.to_start(), [("b".to_owned(), Vec::new())]);
}

#[tokio::test(flavor = "current_thread")]
async fn a_successor_hears_how_a_vm_ended_while_nobody_looked() {
    let scene = Scene::new();
    let plan = || scene.plan("a", &[HELLO, SLEEP], |m| m.restart = Restart::OnFailure);
    for (ending, state) in [
        (Some(Ending::Code(0)), State::Stopped),
        (Some(Ending::Signal(11)), State::BackingOff),
        (None, State::BackingOff),
    ] {
        let mut first = scene.base(1);
        first.add(plan(), None).unwrap();
        first.start("a").await.unwrap();
        scene.running(&first, "a").await;
        let pid = first.status("a").unwrap().pid.unwrap();
        drop(first);
        // Reaped by somebody else, as the holder does when the base is dead.
        let child = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        kill_process(child, Signal::KILL).unwrap();
        waitpid(Some(child), WaitOptions::empty()).unwrap();

        let mut second = scene.base(1);
        second.add(plan(), None).unwrap();
        if let Some(ending) = ending {
            second.exited(pid, ending);
        }
        scene.until("noticed", || second.status("a").unwrap().state == state).await;
        if ending.is_some() {
            assert_eq!(scene.settled.load(Ordering::SeqCst), u64::from(pid));
        }
        if state == State::BackingOff {
            second.stop("a", false).await.unwrap();
        }
        assert_eq!(resting(&second, "a").await.state, State::Stopped);
        second.exited(u32::MAX, Ending::Unknown);
        assert_eq!(scene.settled.load(Ordering::SeqCst), u64::from(u32::MAX));
    }
}
