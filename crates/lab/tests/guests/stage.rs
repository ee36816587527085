//! A scene with an instance whose guests run, and what is asked of them again and again.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use lab::command::wait_until;
use lab::guest::Guest;
use lab::image::Image;
use lab::instance::Instance;
use lab::scene::{Scene, vm};
use serde_json::Value;

/// How long a guest may take to boot and to have its addresses, on a busy machine.
pub const BOOT: Duration = Duration::from_secs(120);
/// How long anything else may take.
pub const LIMIT: Duration = Duration::from_secs(30);
/// Names of the guests.
pub const NAMES: [&str; 2] = ["web", "db"];

/// Who looks at the clock closely has the machine alone.
static MACHINE: RwLock<()> = RwLock::new(());

/// A test's turn, as long as it lasts.
pub enum Turn {
    /// Others may run meanwhile.
    Beside { _others: RwLockReadGuard<'static, ()> },
    /// No other does.
    Alone { _others: RwLockWriteGuard<'static, ()> },
}

impl Turn {
    /// Waits until nobody has the machine alone.
    pub fn beside_others() -> Self {
        Self::Beside { _others: MACHINE.read().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Waits until no other test runs here.
    pub fn alone() -> Self {
        Self::Alone { _others: MACHINE.write().unwrap_or_else(PoisonError::into_inner) }
    }
}

/// A VM in the configuration: `words` are added to its kernel's command line, `keys` to its table.
pub fn machine(number: usize, words: &str, keys: &str) -> String {
    let image = Image::get(|_| {}).unwrap();
    let [v4, v6] = vm(u8::try_from(number).unwrap());
    format!(
        "\n[vm.{}]\nkernel = {:?}\ninitramfs = {:?}\ncmdline = \"{} {words}\"\n\
         memory = \"192M\"\naddresses = [\"{v4}\", \"{v6}\"]\n{keys}\n",
        NAMES[number],
        image.kernel,
        image.initramfs,
        Image::CMDLINE,
    )
}

/// Guests on a LAN.
pub struct Stage {
    pub guests: Vec<Guest>,
    pub instance: Instance,
    _scene: Scene,
    _turn: Turn,
}

impl Stage {
    /// Forms guests, each with these words on its command line and these keys in its table.
    pub fn set(machines: &[(&str, &str)]) -> Self {
        Self::set_in(Turn::beside_others(), machines)
    }

    /// The same, when it is `turn`.
    pub fn set_in(turn: Turn, machines: &[(&str, &str)]) -> Self {
        let scene = Scene::set().unwrap();
        let mut config = scene.network();
        for (number, (words, keys)) in machines.iter().enumerate() {
            config.push_str(&machine(number, words, keys));
        }
        let instance = Instance::up(&scene.host, &config).unwrap();
        let names = NAMES.iter().take(machines.len());
        let guests = names.map(|name| instance.guest(name, BOOT).unwrap()).collect();
        Self { guests, instance, _scene: scene, _turn: turn }
    }

    /// A guest by its number.
    pub fn guest(&self, number: usize) -> &Guest {
        &self.guests[number]
    }

    /// Waits until all guests have their addresses.
    pub fn with_addresses(self) -> Self {
        for (number, guest) in (0..).zip(&self.guests) {
            guest.wait_for_addresses(&vm(number), BOOT).unwrap();
        }
        self
    }
}

/// Echo over both families comes back.
pub fn talk(guest: &Guest, to: lab::scene::Pair) {
    for address in to {
        guest.ok(&format!("ping -n -c 2 -i 0.2 -w 10 {address}")).unwrap();
    }
}

/// Runs a command of the operator's that must succeed; gives how long it took.
pub fn operate(instance: &Instance, words: &[&str]) -> Duration {
    let start = Instant::now();
    let end = instance.finish(words).unwrap();
    assert!(end.status.success(), "{words:?}: {end:?}\n{}", events(instance));
    start.elapsed()
}

/// What `ps` shows of a VM.
pub fn status(instance: &Instance, name: &str) -> Value {
    let ps = instance.ps().unwrap();
    let vms = ps["vms"].as_array().unwrap();
    vms.iter().find(|vm| vm["name"] == name).unwrap().clone()
}

/// Waits until `ps` shows a VM as `wanted` likes it.
pub fn wait_status(
    instance: &Instance,
    name: &str,
    what: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Value {
    let mut seen = Value::Null;
    let found = wait_until(LIMIT, String::new, || {
        seen = status(instance, name);
        Ok(wanted(&seen).then(|| seen.clone()))
    });
    found.unwrap_or_else(|error| panic!("{what}: {error}; {seen}\n{}", events(instance)))
}

/// Waits for a state.
pub fn wait_state(instance: &Instance, name: &str, state: &str) -> Value {
    wait_status(instance, name, state, |vm| vm["state"] == state)
}

/// All events, one a line, for a person to read.
pub fn events(instance: &Instance) -> String {
    let events = instance.events().unwrap_or_default();
    events.iter().map(|e| format!("{} {} {}\n", e["subject"], e["kind"], e["text"])).collect()
}

/// Events of a kind about a subject: their texts.
pub fn told(instance: &Instance, subject: &str, kind: &str) -> Vec<String> {
    let events = instance.events().unwrap();
    let fitting = events.iter().filter(|e| e["subject"] == subject && e["kind"] == kind);
    fitting.map(|e| e["text"].as_str().unwrap_or_default().to_owned()).collect()
}
