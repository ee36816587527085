//! Several files, and variables: what they become, and the copy that needs none of them.

use std::fs;

use super::*;

/// A directory with these files.
fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

/// What the directory's `net.toml` becomes on whatever machine, with this environment.
fn load_in(
    dir: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<(String, Config), ConfigErrors> {
    load_with(&dir.join("net.toml"), &Against { files: &AsAccepted, present: None, environment })
}

const MAIN: &str = "\
# All of it.
workers = 2
include = \"vm.d/*.toml\"

[vars]
card   = \"${env.CARD}\"
domain = \"example\"

[network.lan]
uplink   = \"${card}\"
prefixes = \"203.0.113.0/24\"
";
const WEB: &str = "\
[vm.web]
addresses = \"203.0.113.10\"
kernel    = \"vmlinuz\"
cmdline   = \"console=ttyS0 name=$${name} host=web.${domain}\"
hostname  = \"web.${domain}\"
";
const DB: &str = "\
[vm.db]
addresses = \"203.0.113.11\"
disk      = [{ path = \"${domain}.img\", readonly = true }]
";

fn card(name: &str) -> Option<String> {
    (name == "CARD").then(|| "eth1".to_owned())
}

#[test]
fn included_files_are_read_as_if_they_stood_in_the_main_one() {
    let dir = directory(&[
        ("net.toml", MAIN),
        ("vm.d/20-web.toml", WEB),
        ("vm.d/10-db.toml", DB),
        ("vm.d/.hidden.toml", "not even TOML"),
        ("vm.d/web.toml~", "not even TOML"),
    ]);
    let (_, config) = load_in(dir.path(), &card).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.workers.0.len(), 2);
    assert_eq!(config.networks["lan"].uplink.as_deref(), Some("eth1"));
    assert_eq!(config.vms["web"].hostname, "web.example");
    let Engine::Qemu(web) = &config.vms["web"].engine else { panic!() };
    let kernel = web.kernel.as_ref().unwrap();
    assert_eq!(kernel.cmdline, "console=ttyS0 name=${name} host=web.example");
    // Beside the main file, not beside the file that says so.
    assert_eq!(kernel.image, dir.path().join("vmlinuz"));
    let Engine::Qemu(db) = &config.vms["db"].engine else { panic!() };
    assert_eq!(db.disks[0].path, dir.path().join("example.img"));
}

#[test]
fn the_accepted_copy_needs_no_other_file_and_no_environment() {
    let dir = directory(&[("net.toml", MAIN), ("vm.d/web.toml", WEB), ("vm.d/db.toml", DB)]);
    let (copy, config) = load_in(dir.path(), &card).unwrap();
    let path = dir.path().join("net.toml");
    fs::remove_dir_all(dir.path()).unwrap();
    assert_eq!(check_accepted(&copy, &path).unwrap(), config);
    // As a file like any other it is the same, too: so a base of another version reads it.
    let again = Against { files: &AsAccepted, present: None, environment: &|_| None };
    let (_, same) = check_with(&copy, &path, &again).unwrap();
    assert_eq!(same, config);
    let plain = file("", "");
    let (copy, _) = check_with(&plain, &path, &again).unwrap();
    assert_eq!(copy, plain, "what needs nothing else is kept as it was written");
}

#[test]
fn a_copy_that_was_accepted_before_there_were_variables_means_what_it_meant() {
    let text = file("", "kernel = \"k\"\ncmdline = \"a=${b} c=$${d}\"");
    let accepted = check_accepted(&text, Path::new("/etc/ipvisor/net.toml")).unwrap();
    let Engine::Qemu(machine) = &accepted.vms["web"].engine else { panic!() };
    assert_eq!(machine.kernel.as_ref().unwrap().cmdline, "a=${b} c=${d}");
}

#[test]
fn an_empty_directory_is_no_mistake_and_a_file_can_be_named_as_it_is() {
    let main = "include = [\"common.toml\", \"vm.d/*.toml\"]\n[vm.web]\n\
                addresses = \"203.0.113.10\"\ndisk = \"d\"\n";
    let common = "[network.lan]\nprefixes = \"203.0.113.0/24\"\n";
    let dir = directory(&[("net.toml", main), ("common.toml", common), ("vm.d/README", "")]);
    let (_, config) = load_in(dir.path(), &card).unwrap();
    assert!(config.networks.contains_key("lan") && config.vms.contains_key("web"));
    // A pattern that fits the main file, and one file twice.
    let main = main.replace("\"common.toml\"", "\"*.toml\", \"common.toml\"");
    fs::write(dir.path().join("net.toml"), main).unwrap();
    let (_, config) = load_in(dir.path(), &card).unwrap();
    assert!(config.networks.contains_key("lan") && config.vms.contains_key("web"));
}

#[test]
fn variables_that_make_a_configuration_endless_are_refused_in_little_time() {
    let long = "x".repeat(1 << 20);
    let many = "\"${a}${a}${a}${a}\", ".repeat(1000);
    let text = format!("[vars]\na = \"{long}\"\n[vm.web]\ndisk = [{many}]\n");
    let began = std::time::Instant::now();
    let errors = read(&text).unwrap_err();
    assert!(errors.mistakes()[0].message.contains("longer than"), "{errors}");
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_mistake_knows_its_file() {
    let wrong = format!("{DB}mtu = \"large\"\n");
    let dir = directory(&[("net.toml", MAIN), ("vm.d/a.toml", WEB), ("vm.d/b.toml", &wrong)]);
    let errors = load_in(dir.path(), &card).unwrap_err();
    let mistake = &errors.mistakes()[0];
    assert_eq!(errors.path(mistake), dir.path().join("vm.d/b.toml"));
    assert_eq!(errors.position(mistake), Some((4, 7)));
}
