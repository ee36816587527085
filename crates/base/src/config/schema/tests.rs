//! The schema against the documents' examples and wrong values, by somebody else's validator.

use std::fs;
use std::path::PathBuf;

use jsonschema::Validator;

use super::*;

/// The documents with examples.
const DOCUMENTS: [&str; 2] = ["docs/configuration.md", "README.md"];
/// The copy of the schema for editors.
const COPY: &str = "docs/ipvisor.schema.json";

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn validator() -> Validator {
    jsonschema::draft7::new(&schema()).unwrap()
}

/// A text of TOML as editors give it to a validator.
fn parsed(text: &str) -> Value {
    toml::from_str(text).unwrap_or_else(|e| panic!("{text}\n{e}"))
}

/// A whole file in which the line stands in the right table.
fn file(table: Table, line: &str) -> String {
    match table {
        Table::File => format!("{line}\n"),
        Table::Host => format!("[host]\n{line}\n"),
        Table::Network if line.starts_with("prefixes") => format!("[network.a]\n{line}\n"),
        Table::Network => format!("[network.a]\nprefixes = \"203.0.113.0/24\"\n{line}\n"),
        Table::Vm if line.starts_with("addresses") => format!("[vm.a]\n{line}\n"),
        Table::Vm => format!("[vm.a]\naddresses = \"203.0.113.10\"\n{line}\n"),
        Table::Disk if line.starts_with("path") => file(Table::Vm, &format!("disk = {{ {line} }}")),
        Table::Disk => file(Table::Vm, &format!("disk = {{ path = \"a\", {line} }}")),
        Table::Socket => file(Table::Vm, &format!("socket = {{ {line} }}")),
    }
}

#[test]
fn every_form_of_a_value_is_known() {
    for key in KEYS {
        let known = value(key.form).is_some();
        assert!(known, "{}: `{}` is unknown to config/schema.rs: add it there", key.name, key.form);
    }
}

#[test]
fn every_example_of_the_documents_and_of_each_key_is_taken() {
    let validator = validator();
    let mut count = 0;
    for document in DOCUMENTS {
        for example in read(document).split("```toml\n").skip(1) {
            let example = example.split("```").next().unwrap();
            let errors: Vec<_> =
                validator.iter_errors(&parsed(example)).map(|e| e.to_string()).collect();
            assert!(errors.is_empty(), "{document}:\n{example}\n{errors:#?}");
            count += 1;
        }
    }
    assert!(count >= 5, "{count}");
    for key in KEYS {
        let text = file(key.table, &format!("{} = {}", key.name, key.example));
        assert!(validator.is_valid(&parsed(&text)), "{text}");
    }
}

#[test]
fn what_the_reader_refuses_by_its_form_the_schema_refuses_too() {
    let validator = validator();
    for key in KEYS {
        // None of these is right for any key.
        for wrong in ["1979-05-27", "1.5", "[true]", "[[1]]", "{ colour = 1 }"] {
            let text = file(key.table, &format!("{} = {wrong}", key.name));
            assert!(!validator.is_valid(&parsed(&text)), "{text}");
        }
    }
    for (table, wrong) in [
        (Table::File, "workers = 0"),
        (Table::File, "workers = 9"),
        (Table::File, "workers = []"),
        (Table::File, "workers = [1, 1]"),
        (Table::File, "colour = 1"),
        (Table::Host, "overcommit = \"yes\""),
        (Table::Network, "mtu = 575"),
        (Table::Network, "mtu = \"1500\""),
        (Table::Network, "driver = \"dpdk\""),
        (Table::Network, "gateway = [\"203.0.113.1\", \"fe80::1\", \"fe80::2\"]"),
        (Table::Network, "uplink = \"a card with a long name\""),
        (Table::Network, "colour = 1"),
        (Table::Network, "prefixes = \"203.0.113.0\""),
        (Table::Vm, "addresses = \"web.example\""),
        (Table::Vm, "addresses = 10"),
        (Table::Vm, "memory = 512"),
        (Table::Vm, "memory = \"512\""),
        (Table::Vm, "memory = \"1.5G\""),
        (Table::Vm, "stop_timeout = \"30\""),
        (Table::Vm, "cpus = 256"),
        (Table::Vm, "queues = 0"),
        (Table::Vm, "mac = \"2:0:0:0:0:1\""),
        (Table::Vm, "engine = \"xen\""),
        (Table::Vm, "restart = \"sometimes\""),
        (Table::Vm, "autostart = \"no\""),
        (Table::Disk, "format = \"vmdk\""),
        (Table::Disk, "colour = 1"),
    ] {
        let text = file(table, wrong);
        assert!(!validator.is_valid(&parsed(&text)), "{text}");
    }
    for text in [
        "[network.a]\nuplink = \"eth1\"\n",
        "[network.\"a b\"]\nprefixes = \"203.0.113.0/24\"\n",
        "[vm.a]\ncpus = 1\n",
        "[vms.a]\n",
        "vm = 1\n",
        "[vm.a]\naddresses = \"203.0.113.10\"\ndisk = [{ format = \"raw\" }]\n",
    ] {
        assert!(!validator.is_valid(&parsed(text)), "{text}");
    }
}

#[test]
fn the_copy_for_editors_is_what_the_command_prints() {
    if std::env::var_os("IPVISOR_WRITE").is_some() {
        fs::write(path(COPY), text()).unwrap();
    }
    assert_eq!(read(COPY), text(), "write it by IPVISOR_WRITE=1, or `ipvisor schema > {COPY}`");
}
