//! The manual page of the configuration, ipvisor.toml(5): the keys, each with what it must be, what
//! holds without it, and a value.

use std::io;

use base::config::{KEYS, Table};
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

const EXAMPLE: &str = include_str!("../../../../dist/net.toml");

const TABLES: [(Table, &str); 6] = [
    (Table::File, "Above all tables."),
    (Table::Host, "What may be done with this machine."),
    (
        Table::Network,
        "A network is one list of addresses with its uplink. VMs of different networks never meet, and may \
         use the same addresses. A network without `uplink` is private: its VMs reach each other, and \
         nobody else.",
    ),
    (Table::Vm, "A virtual machine has one network card on one network."),
    (
        Table::Disk,
        "A disk is a path, or a table that says more. A disk that one VM can write belongs to no other.",
    ),
    (Table::Socket, "Where an external front end and the base meet, if the base connects."),
];

/// The page.
pub fn page() -> io::Result<Vec<u8>> {
    let mut page = Roff::new();
    let version = concat!("ipvisor ", env!("CARGO_PKG_VERSION"));
    // No date: what is made twice is the same.
    page.control("TH", ["ipvisor.toml", "5", "\"\"", version]);
    page.control("SH", ["NAME"]);
    page.text([roman("ipvisor.toml - the configuration of ipvisor(1)")]);
    page.control("SH", ["DESCRIPTION"]);
    for text in [
        "One file in TOML describes everything: the networks, and the virtual machines (VMs) on them. \
         Its name is given to `ipvisor up`; the service of systemd takes `/etc/ipvisor/net.toml`. \
         `ipvisor check` says whether it is right, `ipvisor doctor` whether the machine is ready for it.",
        "Names of networks and VMs are made of the letters a to z, digits, and - and _ between them, 32 \
         at most. Paths are relative to the file's directory. Sizes and times carry their unit. A list of \
         one may be written without brackets. A key that nobody knows is a mistake.",
    ] {
        page.text(inline(text));
        page.control("PP", []);
    }
    for (table, about) in TABLES {
        page.control("SH", [table.to_string().to_uppercase().as_str()]);
        page.text(inline(about));
        for key in KEYS.iter().filter(|key| key.table == table) {
            page.control("TP", []);
            page.text([bold(key.name), roman(" = "), italic(key.form)]);
            page.text(inline(key.meaning));
            page.control("RS", []);
            page.control("PP", []);
            page.text([roman("Without it: "), roman(plain(key.default))]);
            page.control("br", []);
            page.text([roman("Example: "), bold(format!("{} = {}", key.name, key.example))]);
            page.control("RE", []);
        }
    }
    page.control("SH", ["EXAMPLE"]);
    page.control("nf", []);
    page.text([roman(EXAMPLE)]);
    page.control("fi", []);
    page.control("SH", ["SEE ALSO"]);
    page.text([bold("ipvisor"), roman("(1), "), bold("ipvisor-check"), roman("(1)")]);
    let mut octets = Vec::new();
    page.to_writer(&mut octets)?;
    Ok(octets)
}

/// What stands between backquotes is bold.
fn inline(text: &str) -> Vec<Inline> {
    let parts = text.split('`').enumerate();
    parts.map(|(n, part)| if n % 2 == 0 { roman(part) } else { bold(part) }).collect()
}

fn plain(text: &str) -> String {
    text.replace('`', "")
}
