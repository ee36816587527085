//! Four guests with an order among them: started one after the other, stopped in reverse.

use std::time::Duration;

use lab::command::{Background, wait_until};
use lab::image::Image;
use lab::instance::Instance;
use lab::scene::{Scene, vm};
use serde_json::Value;

use crate::stage::{BOOT, Turn, events, operate, status, told};

/// How long the guest has that does not heed its power button.
const DEAF_FOR: Duration = Duration::from_secs(3);

/// How long the others have: more than they need.
const PATIENT: Duration = Duration::from_secs(60);

/// Name, and what its table says besides. They boot one after the other, but for the last.
const VMS: [(&str, &str); 4] = [
    ("db", "stop_timeout = \"60s\""),
    ("app", "after = \"db\"\nstop_timeout = \"3s\""),
    ("web", "after = [\"db\", \"app\"]\nstop_timeout = \"60s\""),
    ("aside", "stop_timeout = \"60s\""),
];

fn config(scene: &Scene) -> String {
    let image = Image::get(|_| {}).unwrap();
    let mut config = format!("[host]\novercommit = true\n{}", scene.network());
    for (number, (name, keys)) in (0..).zip(VMS) {
        let [v4, v6] = vm(number);
        config.push_str(&format!(
            "\n[vm.{name}]\nkernel = {:?}\ninitramfs = {:?}\ncmdline = \"{}\"\nmemory = \"160M\"\n\
             addresses = [\"{v4}\", \"{v6}\"]\n{keys}\n",
            image.kernel,
            image.initramfs,
            Image::CMDLINE,
        ));
    }
    config
}

/// Waits until all run, and sees to it that none was started before those that it is after ran: unless
/// the base says that it waited for a minute, which on a busy machine is not enough to boot.
fn come_up_in_order(instance: &Instance) {
    let waits = status(instance, "web");
    assert_eq!(waits["state"], "waiting", "{waits}");
    assert!(waits["note"].as_str().unwrap().contains("app"), "{waits}");
    let what = || events(instance);
    wait_until(BOOT * 3, what, || {
        let [db, app, web, aside] = VMS.map(|(name, _)| status(instance, name));
        let runs = |vm: &Value| vm["state"] == "running" && vm["attached"] == true;
        for (vm, before) in [(&web, "app"), (&app, "db")] {
            let begun = vm["state"] != "waiting";
            // What was read first may have become true a moment later only.
            if begun && !runs(&status(instance, before)) {
                let subject = format!("vm/{}", vm["name"].as_str().unwrap());
                let excused = !told(instance, &subject, "start_order").is_empty();
                assert!(excused, "{vm}\n{}", events(instance));
            }
        }
        Ok([db, app, web, aside].iter().all(runs).then_some(()))
    })
    .unwrap();
    for (name, _) in VMS {
        for text in told(instance, &format!("vm/{name}"), "start_order") {
            println!("{name}: {text}: the machine is too busy to show the order of start");
        }
    }
}

/// What happened to the VMs' states, in order: `NAME STATE` and milliseconds since 1970.
fn states(text: &str) -> Vec<(String, u64)> {
    let events = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let states = events.map_while(Result::ok).filter(|event| event["kind"] == "state");
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    states
        .map(|event| {
            let name = word(&event["subject"]).trim_start_matches("vm/").to_owned();
            (format!("{name} {}", word(&event["text"])), event["at"].as_u64().unwrap())
        })
        .collect()
}

#[test]
fn vms_are_started_in_their_order_and_stopped_in_reverse_and_a_deaf_one_is_forced() {
    let _turn = Turn::beside_others();
    let scene = Scene::set().unwrap();
    let instance = Instance::up(&scene.host, &config(&scene)).unwrap();
    come_up_in_order(&instance);

    // They boot until somebody listens to the power button; then one does no more.
    for (name, _) in VMS {
        let guest = instance.guest(name, BOOT).unwrap();
        if name == "app" {
            guest.ok("killall head").unwrap();
        }
    }
    let file = instance.dir().join("events");
    let mut follow = instance.command("events");
    let _follow = Background::start(follow.args(["--follow", "--json"]), &file).unwrap();
    let read = || std::fs::read_to_string(&file).unwrap();
    let heard = || Ok(read().contains("vm/aside").then_some(()));
    wait_until(Duration::from_secs(10), read, heard).unwrap();
    operate(&instance, &["down"]);

    let seen = states(&read());
    let at = |what: &str| {
        let found = seen.iter().position(|(state, _)| state == what);
        found.unwrap_or_else(|| panic!("no `{what}` in {seen:#?}"))
    };
    // The last one's end may be too late to be told.
    let order = ["web stopping", "web stopped", "app stopping", "app stopped", "db stopping"];
    assert!(order.is_sorted_by_key(|what| at(what)), "{seen:#?}");
    assert!(at("aside stopping") < at("web stopped"), "{seen:#?}");
    let time = |what: &str| seen[at(what)].1;
    let took = |name: &str| {
        let [begin, end] = ["stopping", "stopped"].map(|state| time(&format!("{name} {state}")));
        Duration::from_millis(end - begin)
    };
    // Nothing but force ends the one; the other is not forced before its time is over.
    let (deaf, heeds) = (took("app"), took("web"));
    assert!((DEAF_FOR..PATIENT).contains(&deaf), "{deaf:?}: {seen:#?}");
    assert!(heeds < PATIENT, "{heeds:?}: {seen:#?}");
    println!("forced after {deaf:?}; by its power button after {heeds:?}");
}
