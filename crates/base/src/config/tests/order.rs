//! `after`: names that exist, and no circles.

use super::*;

/// VMs of these names, each after those.
fn vms(all: &[(&str, &[&str])]) -> String {
    let mut text = "[network.lan]\nprefixes = \"203.0.113.0/24\"\n".to_owned();
    for (number, (name, after)) in (10..).zip(all) {
        text.push_str(&format!(
            "[vm.{name}]\nafter = {after:?}\naddresses = \"203.0.113.{number}\"\n\
             disk = \"{name}.qcow2\"\n"
        ));
    }
    text
}

fn after(config: &Config, name: &str) -> Vec<String> {
    match &config.vms[name].engine {
        Engine::Qemu(machine) => machine.after.clone(),
        Engine::External(_) => panic!("{name}"),
    }
}

#[test]
fn an_order_is_read_as_it_is_written() {
    let config = read(&vms(&[("db", &[]), ("app", &["db"]), ("web", &["app", "db"])])).unwrap();
    assert_eq!(after(&config, "db"), [""; 0]);
    assert_eq!(after(&config, "app"), ["db"]);
    assert_eq!(after(&config, "web"), ["app", "db"]);
}

#[test]
fn a_name_that_no_vm_has_is_shown_where_it_stands() {
    let text = vms(&[("db", &[]), ("web", &["bd"])]);
    assert_eq!(mistake(&text), "8: there is no VM `bd` to start after / did you mean \"db\"?");
    let found = mistake(&vms(&[("web", &["everything"])]));
    assert!(found.contains("add a table [vm.everything]"), "{found}");
}

#[test]
fn each_circle_is_told_once_and_those_that_only_start_after_it_are_not_in_it() {
    let found = mistake(&vms(&[("a", &["a"])]));
    assert!(found.contains("VM `a` cannot start after itself"), "{found}");
    let found = mistake(&vms(&[("a", &["b"]), ("b", &["c"]), ("c", &["a"]), ("z", &["a"])]));
    assert!(found.contains("nobody could start: a after b after c after a"), "{found}");
    assert!(found.starts_with("4: "), "{found}");
    let two: [(&str, &[&str]); 4] =
        [("a", &["b"]), ("b", &["a"]), ("c", &["d", "a"]), ("d", &["c"])];
    assert_eq!(mistakes(&vms(&two)).len(), 2);
    // One that is reached twice is no circle.
    let diamond: [(&str, &[&str]); 4] =
        [("a", &[]), ("b", &["a"]), ("c", &["a"]), ("d", &["b", "c"])];
    assert!(read(&vms(&diamond)).is_ok());
}

#[test]
fn a_thousand_in_a_row_are_read_and_a_thousand_in_a_circle_refused_in_no_time() {
    let chain = |last: &str| {
        let mut text = "[network.lan]\nprefixes = \"10.0.0.0/8\"\n".to_owned();
        for n in 0..1000 {
            let after = if n == 0 { last.to_owned() } else { format!("\"v{}\"", n - 1) };
            let (high, low) = (n / 250, n % 250 + 1);
            text.push_str(&format!(
                "[vm.v{n}]\nafter = [{after}]\naddresses = \"10.1.{high}.{low}\"\ndisk = \"{n}.qcow2\"\n"
            ));
        }
        text
    };
    let began = std::time::Instant::now();
    assert!(read(&chain("")).is_ok());
    assert!(read(&chain("\"v999\"")).is_err());
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn no_is_never_and_an_order_is_only_for_vms_that_the_base_forms() {
    let config = read(&file("", "restart = \"no\"")).unwrap();
    let Engine::Qemu(machine) = &config.vms["web"].engine else { panic!() };
    assert_eq!(machine.restart, Restart::Never);
    let text = file("", "engine = \"external\"\nsocket = \"s\"\nafter = [\"db\"]") + DB;
    let found = mistake(&text);
    assert!(found.contains("`after` has no meaning for an external VM"), "{found}");
}
