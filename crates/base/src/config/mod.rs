//! The configuration: from text that a person wrote to values that the base can rely on.
//!
//! # Theory of operation
//! ```text
//! files -> document -> network, vm:   -> rules:         -> possible:       -> Config
//!             |        one table each    between tables    on this machine
//!             |            |               |                  |
//!             '------------+---------------+------------------+--> ConfigErrors
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
//! What VMs that run have taken of the machine is not known here: the ledger knows.

mod addresses;
mod disk;
mod document;
mod files;
mod keys;
mod mac;
mod malformed;
mod network;
mod order;
mod possible;
mod present;
mod reader;
mod report;
mod rules;
pub mod schema;
mod seed;
pub mod shown;
mod sources;
mod types;
mod units;
mod vars;
mod vm;
mod workers;

use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use datapath::state::{MAX_NETWORKS, MAX_PORTS};

pub use addresses::is_single;
pub use files::{AsAccepted, Files, Found, RealFiles};
pub use keys::{KEYS, Key, Table};
pub use mac::mac_of;
pub use present::Present;
pub use report::{ConfigErrors, Mistake};
pub use shown::Shown;
pub use types::{
    CloneSize, Config, Disk, DiskFormat, Driver, Engine, Firmware, Gateway, Host, Kernel, Machine,
    Network, Restart, Seed, Socket, Vm, Workers,
};

use reader::{At, Reader, kind};
use sources::Sources;

/// Octets of the longest configuration: some 100,000 addresses.
pub const LONGEST: usize = 2 << 20;

/// What a configuration is held against.
#[derive(Clone, Copy)]
pub struct Against<'a> {
    /// Where files are looked up.
    pub files: &'a dyn Files,
    /// What the machine has; `None`: it is for whatever machine.
    pub present: Option<&'a Present>,
    /// What the environment's variables are.
    pub environment: &'a dyn Fn(&str) -> Option<String>,
}

/// Holds a configuration against this machine. What cannot be asked of the machine now is left to
/// whoever needs it.
fn against_this_machine<T>(check: impl FnOnce(&Against<'_>) -> T) -> T {
    let present = Present::of_this_machine().ok();
    let present = present.as_ref();
    check(&Against { files: &RealFiles, present, environment: &of_the_environment })
}

fn of_the_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Reads the file, and those that it includes, and checks it against this machine. Gives a text with
/// the same in it that needs no other file and no environment, so that a successor can be given it.
pub fn load(path: &Path) -> Result<(String, Config), ConfigErrors> {
    against_this_machine(|machine| load_with(path, machine))
}

/// The same without what depends on a machine: neither its cards, CPUs and memory nor the files that
/// the configuration names matter.
pub fn load_for_any_machine(path: &Path) -> Result<(String, Config), ConfigErrors> {
    let environment = &of_the_environment;
    load_with(path, &Against { files: &AsAccepted, present: None, environment })
}

/// The same with the files that the configuration names, but without the machine's cards, CPUs and
/// memory: for the doctor, who examines those.
pub fn load_with_files(path: &Path) -> Result<(String, Config), ConfigErrors> {
    let environment = &of_the_environment;
    load_with(path, &Against { files: &RealFiles, present: None, environment })
}

fn load_with(path: &Path, against: &Against<'_>) -> Result<(String, Config), ConfigErrors> {
    let text = read_text(path).map_err(|m| ConfigErrors::new(Sources::new(path, ""), vec![m]))?;
    check_with(&text, path, against)
}

fn read_text(path: &Path) -> Result<String, Mistake> {
    let unreadable = |error: std::io::Error| {
        let mistake = Mistake::whole(format!("cannot read the configuration: {error}"));
        mistake.help(match error.kind() {
            std::io::ErrorKind::NotFound => "name the file as in `ipvisor up net.toml`",
            std::io::ErrorKind::PermissionDenied => {
                "whoever runs `ipvisor` must be allowed to read it"
            }
            _ => "name a file, as in `ipvisor up net.toml`",
        })
    };
    let octets = RealFiles.read(path, LONGEST).map_err(unreadable)?;
    String::from_utf8(octets)
        .map_err(|_| Mistake::whole("the configuration is not text").help("it is TOML, in UTF-8"))
}

/// Checks a configuration whose text was read from `path`, against this machine. Gives what [`load`]
/// gives.
pub fn check(text: &str, path: &Path) -> Result<(String, Config), ConfigErrors> {
    against_this_machine(|machine| check_with(text, path, machine))
}

/// A size of a disk as it stands in a configuration, such as "20G", in octets.
pub fn disk_size(text: &str) -> Result<u64, String> {
    units::disk_size(text).map_err(|wrong| match wrong.help {
        Some(help) => format!("{}: {help}", wrong.message),
        None => wrong.message,
    })
}

/// Reads a configuration that was accepted before, as a successor does: a file that is gone since
/// is found missing when it is needed, and must not end the VMs that run.
pub fn check_accepted(text: &str, path: &Path) -> Result<Config, ConfigErrors> {
    read(text, path, &AsAccepted, None, None).map(|(_, config)| config)
}

/// Checks a configuration against any idea of a machine.
pub fn check_with(
    text: &str,
    path: &Path,
    against: &Against<'_>,
) -> Result<(String, Config), ConfigErrors> {
    read(text, path, against.files, against.present, Some(against.environment))
}

fn read(
    text: &str,
    path: &Path,
    files: &dyn Files,
    present: Option<&Present>,
    environment: Option<&document::Environment<'_>>,
) -> Result<(String, Config), ConfigErrors> {
    if text.len() > LONGEST {
        let mistake = Mistake::whole(document::too_long()).help(
            "give VMs whole prefixes instead of single addresses, or start a second instance",
        );
        return Err(ConfigErrors::new(Sources::new(path, ""), vec![mistake]));
    }
    let directory = directory_of(path);
    let (included, mut sources) = (document::Included::new(), Sources::new(path, text));
    let reading = document::Reading { path, directory: &directory, files, environment };
    let document = match document::read(text, &included, &reading, &mut sources) {
        Ok(document) => document,
        Err(mistakes) => return Err(ConfigErrors::new(sources, mistakes)),
    };
    let around = vm::Surroundings { directory: &directory, files };
    let mut mistakes = Vec::new();
    let mut drafts = Drafts::default();
    for (name, value) in &document.table {
        let name = At::new(name.get_ref().as_ref(), &name.span());
        drafts.read(&name, value, &around, &mut mistakes);
    }
    if drafts.count(&mut mistakes) {
        rules::check(&drafts.networks, &mut drafts.vms, &mut mistakes);
    }
    if let Some(present) = present
        && mistakes.is_empty()
    {
        possible::check(&drafts, present, &mut mistakes);
    }
    if mistakes.is_empty() {
        Ok((document.copy, drafts.into_config()))
    } else {
        Err(ConfigErrors::new(sources, mistakes))
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
    workers: workers::Draft,
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
        Config { workers: self.workers.workers, host: self.host, networks, vms }
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
            if let DeValue::Array(_) = value.get_ref()
                && keys::find(table, text).is_none()
            {
                let line = table.to_string().replace("NAME", text);
                out.push(
                    mistake.help(format!("begin its table with one pair of brackets: {line}")),
                );
                continue;
            }
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
    let tables = ["host", "network", "vm", "vars"].into_iter();
    match keys::closest(name, tables.map(|t| (t, t))) {
        Some(near @ ("host" | "vars")) => mistake.help(format!("did you mean [{near}]?")),
        Some(near) => mistake.help(format!("did you mean [{near}.NAME]?")),
        None => mistake.help("a configuration has [host], [network.NAME] and [vm.NAME]"),
    }
}

#[cfg(test)]
mod tests;
