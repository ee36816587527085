//! The configuration: from text that a person wrote to values that the base can rely on.
//!
//! # Theory of operation
//! ```text
//! text -> toml -> network, vm: one table each -> rules: between tables -> Config
//!           |          |                            |
//!           '----------+----------------------------+--> Mistakes -> ConfigErrors
//! ```
//! Nothing is started before all of it is right. Every step notes what is wrong and goes on, so
//! that a person sees all mistakes at once; a value that could not be read is left out, and rules
//! that would need it stay silent. [`KEYS`] lists every key; `docs/configuration.md` shows the same
//! list, and a test compares them.
//!
//! # Invariants
//! - A [`Config`] exists only without mistakes: whoever has one need not look again.
//! - No text makes the reader panic or take long: it is as long as [`LONGEST`], and what is
//!   quadratic is bounded.
//!
//! # Limits
//! Whether a network interface exists, and whether the machine has what the VMs ask for, is not
//! known here: `up` finds out.

mod addresses;
mod disk;
mod files;
mod keys;
mod mac;
mod network;
mod reader;
mod report;
mod rules;
mod seed;
mod types;
mod units;
mod vm;
mod workers;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use datapath::state::{MAX_NETWORKS, MAX_PORTS};

pub use files::{AsAccepted, Files, Found, RealFiles};
pub use keys::{KEYS, Key, Table};
pub use mac::mac_of;
pub use report::{ConfigErrors, Mistake};
pub use types::{
    CloneSize, Config, Disk, DiskFormat, Driver, Engine, Firmware, Gateway, Host, Kernel, Machine,
    Network, Restart, Seed, Socket, Vm, Workers,
};

use reader::{At, Reader, kind};

/// Octets of the longest configuration: some 100,000 addresses.
pub const LONGEST: usize = 2 << 20;
/// Mistakes of form that are reported, at most: after the first few they are echoes.
const MOST_ECHOES: usize = 5;

/// Reads and checks the file; gives its text too, so that a successor can be given the same.
pub fn load(path: &Path) -> Result<(String, Config), ConfigErrors> {
    let text = read_text(path).map_err(|m| ConfigErrors::new(path, "", vec![m]))?;
    let config = check(&text, path)?;
    Ok((text, config))
}

fn read_text(path: &Path) -> Result<String, Mistake> {
    let unreadable = |error: std::io::Error| {
        let mistake = Mistake::whole(format!("cannot read the configuration: {error}"));
        match error.kind() {
            std::io::ErrorKind::NotFound => {
                mistake.help("name the file as in `ipvisor up net.toml`")
            }
            _ => mistake,
        }
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut octets = Vec::new();
    file.take((LONGEST as u64).saturating_add(1)).read_to_end(&mut octets).map_err(unreadable)?;
    String::from_utf8(octets)
        .map_err(|_| Mistake::whole("the configuration is not text").help("it is TOML, in UTF-8"))
}

/// Checks a configuration whose text was read from `path`, against the machine's files.
pub fn check(text: &str, path: &Path) -> Result<Config, ConfigErrors> {
    check_with(text, path, &RealFiles)
}

/// Reads a configuration that was accepted before, as a successor does: a file that is gone since
/// is found missing when it is needed, and must not end the VMs that run.
pub fn check_accepted(text: &str, path: &Path) -> Result<Config, ConfigErrors> {
    check_with(text, path, &AsAccepted)
}

/// Checks a configuration against any idea of files.
pub fn check_with(text: &str, path: &Path, files: &dyn Files) -> Result<Config, ConfigErrors> {
    let failed = |mistakes| ConfigErrors::new(path, text, mistakes);
    if text.len() > LONGEST {
        let mistake = Mistake::whole(format!("the configuration is longer than {LONGEST} octets"));
        return Err(ConfigErrors::new(path, "", vec![mistake]));
    }
    let (document, malformed) = DeTable::parse_recoverable(text);
    if !malformed.is_empty() {
        let mistakes = malformed.iter().take(MOST_ECHOES).map(malformation).collect();
        return Err(failed(mistakes));
    }
    let directory = directory_of(path);
    let around = vm::Surroundings { directory: &directory, files };
    let mut mistakes = Vec::new();
    let mut drafts = Drafts::default();
    for (name, value) in document.get_ref() {
        let name = At::new(name.get_ref().as_ref(), &name.span());
        drafts.read(&name, value, &around, &mut mistakes);
    }
    if drafts.count(&mut mistakes) {
        rules::check(&drafts.networks, &mut drafts.vms, &mut mistakes);
    }
    if mistakes.is_empty() { Ok(drafts.into_config()) } else { Err(failed(mistakes)) }
}

/// A size of a disk as it stands in a configuration, such as "20G", in octets.
pub fn disk_size(text: &str) -> Result<u64, String> {
    units::disk_size(text).map_err(|wrong| match wrong.help {
        Some(help) => format!("{}: {help}", wrong.message),
        None => wrong.message,
    })
}

/// What the TOML reader did not understand.
fn malformation(error: &toml::de::Error) -> Mistake {
    let message = format!("this is not TOML: {}", error.message());
    match error.span() {
        Some(at) => Mistake::at(&at, message),
        None => Mistake::whole(message),
    }
}

/// Where relative paths of the file start: absolute, so that it does not matter where the base is
/// when it opens them.
fn directory_of(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.parent().unwrap_or(Path::new("/")).to_owned()
}

/// Everything read so far.
#[derive(Default)]
struct Drafts {
    workers: Workers,
    host: Host,
    networks: Vec<network::Draft>,
    vms: Vec<vm::Draft>,
}

impl Drafts {
    /// One entry of the file's outermost table.
    fn read<'t>(
        &mut self,
        name: &At<&str>,
        value: reader::Value<'t>,
        around: &vm::Surroundings<'_>,
        out: &mut Vec<Mistake>,
    ) {
        match (name.value, value.get_ref()) {
            ("workers", _) => self.workers = workers::read(value, out).unwrap_or_default(),
            ("host", DeValue::Table(values)) => {
                self.host = host(&name.at, values, around, out);
            }
            ("network", DeValue::Table(values)) => {
                for (name, values) in named(Table::Network, values, out) {
                    self.networks.push(network::read(name, values, out));
                }
            }
            ("vm", DeValue::Table(values)) => {
                for (name, values) in named(Table::Vm, values, out) {
                    self.vms.push(vm::read(name, values, around, out));
                }
            }
            (known @ ("host" | "network" | "vm"), other) => out.push(
                Mistake::at(&value.span(), format!("`{known}` cannot be {}", kind(other))).help(
                    match known {
                        "host" => "write it as a table: [host]".to_owned(),
                        _ => format!("write it as a table with a name: [{known}.NAME]"),
                    },
                ),
            ),
            (unknown, _) => out.push(unknown_table(unknown, &name.at)),
        }
    }

    /// Whether there are so many networks and VMs as an instance can have.
    fn count(&self, out: &mut Vec<Mistake>) -> bool {
        if self.networks.is_empty() && self.vms.is_empty() && out.is_empty() {
            out.push(Mistake::whole("the configuration has neither networks nor VMs").help(
                "start with [network.NAME] and its `prefixes`, and [vm.NAME] with `addresses`",
            ));
        }
        let mut fits = true;
        for (what, have, most) in
            [("networks", self.networks.len(), MAX_NETWORKS), ("VMs", self.vms.len(), MAX_PORTS)]
        {
            if have > most {
                fits = false;
                out.push(
                    Mistake::whole(format!("the configuration has {have} {what}"))
                        .help(format!("one instance can have {most}; start a second one")),
                );
            }
        }
        fits
    }

    /// Only without mistakes: every VM has its network then.
    fn into_config(self) -> Config {
        let networks = self.networks.into_iter().map(|n| (n.name.value, n.network)).collect();
        let vms = self
            .vms
            .into_iter()
            .map(|draft| {
                let network = draft.network.map(|n| n.value).unwrap_or_default();
                let mac = draft.mac.map(|m| m.value).or_else(|| match &draft.engine {
                    Engine::Qemu(_) => Some(mac_of(&network, &draft.name.value)),
                    Engine::External(_) => None,
                });
                let vm = Vm {
                    network,
                    addresses: draft.addresses.into_iter().map(|a| a.value).collect(),
                    mac,
                    mtu: draft.mtu,
                    queues: draft.queues,
                    hostname: draft.hostname,
                    engine: draft.engine,
                };
                (draft.name.value, vm)
            })
            .collect();
        Config { workers: self.workers, host: self.host, networks, vms }
    }
}

fn host<'t>(
    at: &std::ops::Range<usize>,
    values: &'t DeTable<'t>,
    around: &vm::Surroundings<'_>,
    out: &mut Vec<Mistake>,
) -> Host {
    let mut reader = Reader::new(Table::Host, "[host]".to_owned(), at, values, out);
    let overcommit = reader.boolean("overcommit").unwrap_or(false);
    let data_dir = reader.parsed("data_dir", |t| vm::path(t, around)).map(|d| d.value);
    reader.finish();
    Host { overcommit, data_dir }
}

/// The tables that stand under `network` or `vm`, by their names.
fn named<'t>(
    table: Table,
    values: &'t DeTable<'t>,
    out: &mut Vec<Mistake>,
) -> Vec<(At<String>, &'t DeTable<'t>)> {
    let mut found = Vec::new();
    for (name, value) in values {
        let (text, at) = (name.get_ref().as_ref(), name.span());
        let DeValue::Table(inner) = value.get_ref() else {
            let mistake = Mistake::at(&at, format!("`{text}` stands in no {table}"));
            out.push(match keys::find(table, text) {
                Some(_) => mistake.help(format!("give it a name: {table}, then `{text} = ...`")),
                None => mistake.help(format!("{table} is a table with keys of its own")),
            });
            continue;
        };
        let name =
            At::new(text, &at).then(out, |t: &&str| units::name(t).map(|()| (*t).to_owned()));
        found.extend(name.map(|name| (name, inner)));
    }
    found
}

/// Something in the outermost table that nobody knows.
fn unknown_table(name: &str, at: &std::ops::Range<usize>) -> Mistake {
    let mistake = Mistake::at(at, format!("there is no `{name}` here"));
    if let Some(key) = Table::ALL.iter().find_map(|t| keys::find(*t, name)) {
        return mistake.help(format!("`{name}` belongs in {}", key.table));
    }
    let tables = ["host", "network", "vm"].into_iter();
    match keys::closest(name, tables.map(|t| (t, t))) {
        Some("host") => mistake.help("did you mean [host]?"),
        Some(near) => mistake.help(format!("did you mean [{near}.NAME]?")),
        None => mistake.help("a configuration has [host], [network.NAME] and [vm.NAME]"),
    }
}

#[cfg(test)]
mod tests;
