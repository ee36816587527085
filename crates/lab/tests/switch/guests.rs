//! Holder and base are killed under a guest: `up` finds it again.

use std::time::Duration;

use lab::command::{finish, wait_until};
use lab::image::Image;
use lab::instance::Instance;
use lab::scene::{HOST, OUTSIDE, Scene, vm};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::stage::{ok, reload, say};

const BOOT: Duration = Duration::from_secs(120);
const LIMIT: Duration = Duration::from_secs(60);

fn machine(name: &str, number: u8) -> String {
    let image = Image::get(|_| {}).unwrap();
    let [v4, v6] = vm(number);
    format!(
        "\n[vm.{name}]\nkernel = {:?}\ninitramfs = {:?}\ncmdline = \"{}\"\n\
         memory = \"192M\"\naddresses = [\"{v4}\", \"{v6}\"]\n",
        image.kernel,
        image.initramfs,
        Image::CMDLINE,
    )
}

fn process(instance: &Instance, name: &str) -> Option<i64> {
    let ps = instance.ps().unwrap();
    let vms = ps["vms"].as_array().unwrap().clone();
    vms.iter().find(|v| v["name"] == name).and_then(|v| v["pid"].as_i64())
}

/// Kills holder and base together.
fn kill_both(instance: &Instance) {
    let ps: Value = instance.ps().unwrap();
    let of = |who: &str| ps["instance"][who].as_i64().unwrap() as i32;
    let (holder, base) = (of("holder"), of("base"));
    // Stopped first, so that neither can do anything about the other's end.
    for signal in [Signal::STOP, Signal::KILL] {
        for process in [holder, base] {
            kill_process(Pid::from_raw(process).unwrap(), signal).unwrap();
        }
    }
}

fn lives(pid: i64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

#[test]
fn a_guest_outlives_base_and_holder_and_is_found_again() {
    let scene = Scene::set().unwrap();
    let config = scene.network() + &machine("web", 0);
    let instance = Instance::up(&scene.host, &config).unwrap();
    let guest = instance.guest("web", BOOT).unwrap();
    guest.wait_for_addresses(&vm(0), BOOT).unwrap();
    let before = process(&instance, "web").unwrap();

    // A reload under the guest: another MTU, another VM, which is started.
    let said = reload(&instance, |text| {
        text.replace("[vm.web]", "[vm.web]\nrestart = \"always\"") + &machine("db", 1)
    });
    assert_eq!(said.status, 0, "{}", said.err);
    let refused = reload(&instance, |text| text.replace("192M", "256M"));
    assert_eq!(refused.status, 1, "{}", refused.err);
    let remedy = "VM `web` runs: its memory cannot change; `ipvisor stop web` first";
    assert!(refused.err.contains(remedy), "{}", refused.err);
    let db = wait_until(
        LIMIT,
        || "VM db".to_owned(),
        || Ok(process(&instance, "db").filter(|_| instance.guest("db", BOOT).is_ok())),
    )
    .unwrap();

    kill_both(&instance);
    assert!(lives(before) && lives(db));
    // Only the first is in the file.
    std::fs::write(instance.config_path(), &config).unwrap();
    let file = instance.config_path();
    ok(&instance, &["up", file.to_str().unwrap(), "--detach"]);
    assert_eq!(process(&instance, "web"), Some(before));
    wait_until(LIMIT, || "the end of a VM".to_owned(), || Ok((!lives(db)).then_some(()))).unwrap();
    instance.wait_event("stray", "vm/db", "it has ended").unwrap();
    wait_until(
        LIMIT,
        || format!("an attached front end:\n{}", instance.messages()),
        || Ok(instance.ps()?["vms"][0]["attached"].as_bool().filter(|&attached| attached)),
    )
    .unwrap();
    // Its card was without a carrier for a while; its addresses stay, or it asks for them again.
    guest.wait_for_addresses(&vm(0), BOOT).unwrap();
    for address in OUTSIDE.into_iter().chain(HOST) {
        guest.ok(&format!("ping -n -c 2 -i 0.2 -w 20 {address}")).unwrap();
    }
    let ping = format!("ping -n -c 2 -i 0.2 -w 20 {}", vm(0)[0]);
    let mut outside = scene.outside.command("sh");
    assert!(finish(outside.args(["-c", &ping])).unwrap().status.success());

    // It is this instance's VM like any other.
    drop(guest);
    let said = say(&instance, &["stop", "web"]);
    assert_eq!(said.status, 0, "{}", said.err);
    assert!(!lives(before));
    instance.down().unwrap();
}

#[test]
fn an_up_that_fails_leaves_vms_alone() {
    let scene = Scene::set().unwrap();
    let config = scene.network() + &machine("web", 0);
    let instance = Instance::up(&scene.host, &config).unwrap();
    let before = process(&instance, "web").unwrap();
    kill_both(&instance);
    let file = instance.config_path();
    std::fs::write(&file, config.replace("eth1", "eth7")).unwrap();
    let said = say(&instance, &["up", file.to_str().unwrap(), "--detach"]);
    assert_eq!(said.status, 2, "{}", said.err);
    assert!(said.err.contains("there is no adapter `eth7` here"), "{}", said.err);
    assert!(lives(before));
    std::fs::write(&file, &config).unwrap();
    ok(&instance, &["up", file.to_str().unwrap(), "--detach"]);
    assert_eq!(process(&instance, "web"), Some(before));
    instance.down().unwrap();
    assert!(!lives(before));
}
