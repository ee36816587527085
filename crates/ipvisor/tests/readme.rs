//! The README's configurations are what `ipvisor check` calls right, given the files they name.

use std::fs;
use std::path::Path;
use std::process::Command;

/// The blocks of `document` that are marked as of this language.
fn blocks<'a>(document: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    let parts = document.split(fence.as_str()).skip(1);
    parts.filter_map(|part| part.split("```").next()).collect()
}

/// Whether `check` says that it is right, and what it says.
fn check(config: &str) -> (bool, String) {
    let dir = tempfile::tempdir().unwrap();
    let qcow2 = "QFI\u{fb}";
    for (file, begins) in
        [("vmlinuz", ""), ("initrd.img", ""), ("web.qcow2", qcow2), ("debian.qcow2", qcow2)]
    {
        let octets: Vec<u8> = begins.chars().map(|c| u8::try_from(c).unwrap()).collect();
        fs::write(dir.path().join(file), octets).unwrap();
    }
    fs::write(dir.path().join("net.toml"), config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipvisor"));
    let output = command.args(["check", "net.toml"]).current_dir(dir.path()).output().unwrap();
    let said = [output.stdout, output.stderr].map(|o| String::from_utf8(o).unwrap());
    (output.status.success(), said.concat())
}

fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md")).unwrap()
}

#[test]
fn the_readmes_configurations_are_right() {
    let readme = readme();
    let configurations = blocks(&readme, "toml");
    assert!(configurations.len() >= 2);
    for configuration in configurations {
        let (right, said) = check(configuration);
        assert!(right, "{configuration}\n{said}");
    }
}

#[test]
fn what_the_readme_puts_in_place_of_a_kernel_is_right_too() {
    let readme = readme();
    let with_disk: String = blocks(&readme, "toml")[0]
        .lines()
        .filter(|line| !line.starts_with("initramfs"))
        .map(|line| if line.starts_with("kernel") { "disk = [\"web.qcow2\"]" } else { line })
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(readme.contains("disk = [\"web.qcow2\"]") && with_disk.contains("disk"));
    let (right, said) = check(&with_disk);
    assert!(right, "{with_disk}\n{said}");
}

#[test]
fn a_configuration_that_is_wrong_would_be_noticed() {
    let readme = readme();
    let wrong = blocks(&readme, "toml")[0].replace("addresses", "adresses");
    let (right, said) = check(&wrong);
    assert!(!right && said.contains("addresses"), "{said}");
}
