//! The doctor: what on this machine keeps a configuration from working, and what to do about it.
//!
//! # Theory of operation
//! ```text
//! machine --Facts::read--> Facts --+--> one check --> findings: ok, warning or error, each with its cure
//! file ------------------> Config -'    another ...
//! ```
//! [`Facts`] is read once, in one file; everything else is functions of facts and configuration, so
//! that a machine can be prepared that has them otherwise. A check says something each time, so that
//! a person sees what was looked at; where a fact is not known, it says so and guesses nothing.
//!
//! An *error* is what `up` would stumble over, or without which no datagram would come through. A
//! *warning* is what works worse than it could, or what might not be meant. Without a configuration
//! nobody knows what will be needed, so whatever is missing is a warning.
//!
//! # Invariants
//! - Nothing on the machine is changed. What is seen outside: one ARP request or neighbour
//!   solicitation, or three, for each gateway.
//! - Every finding but `ok` has a cure, a command where there is one.
//!
//! # Limits
//! What a provider or a switch does with frames is only seen by its effect: that the gateway answers.

mod cards;
mod facts;
mod lan;
mod machine;
mod place;
mod privileges;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::Serialize;

use crate::config::{Config, ConfigErrors, Engine, Machine, Network};

pub use facts::Facts;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works worse than it could, or may not be meant.
    Warning,
    /// Does not work.
    Error,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was looked at: `kvm`, `card eth1`, `network lan`.
    pub about: String,
    /// What was found.
    pub what: String,
    /// What to do about it: a command where there is one.
    pub cure: Option<String>,
}

impl Finding {
    fn ok(about: impl Into<String>, what: impl Into<String>) -> Self {
        Self { level: Level::Ok, about: about.into(), what: what.into(), cure: None }
    }

    fn warning(about: impl Into<String>, what: impl Into<String>, cure: impl Into<String>) -> Self {
        Self::bad(Level::Warning, about, what, cure)
    }

    fn error(about: impl Into<String>, what: impl Into<String>, cure: impl Into<String>) -> Self {
        Self::bad(Level::Error, about, what, cure)
    }

    fn bad(
        level: Level,
        about: impl Into<String>,
        what: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self { level, about: about.into(), what: what.into(), cure: Some(cure.into()) }
    }
}

/// Without the level: `card eth1: it is down  -> ip link set eth1 up`.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.about, self.what)?;
        match &self.cure {
            Some(cure) => write!(f, "  -> {cure}"),
            None => Ok(()),
        }
    }
}

/// What is examined.
struct Case<'a> {
    facts: &'a Facts,
    config: Option<&'a Config>,
}

impl<'a> Case<'a> {
    /// How bad it is that something is missing which is needed only if `needed` says so of the
    /// configuration.
    fn missing(&self, needed: impl FnOnce(&Config) -> bool) -> Level {
        match self.config {
            Some(config) if needed(config) => Level::Error,
            _ => Level::Warning,
        }
    }

    /// The VMs that the base forms.
    fn formed(&self) -> impl Iterator<Item = (&'a str, &'a Machine)> + use<'a> {
        let vms = self.config.into_iter().flat_map(|config| &config.vms);
        vms.filter_map(|(name, vm)| match &vm.engine {
            Engine::Qemu(machine) => Some((name.as_str(), machine)),
            Engine::External(_) => None,
        })
    }

    /// Whether VMs are or may be formed here.
    fn forms(&self) -> bool {
        self.config.is_none() || self.formed().next().is_some()
    }

    /// The networks that have a card, and its name.
    fn carded(&self) -> impl Iterator<Item = (&'a str, &'a Network, &'a str)> + use<'a> {
        let networks = self.config.into_iter().flat_map(|config| &config.networks);
        networks.filter_map(|(name, n)| Some((name.as_str(), n, n.uplink.as_deref()?)))
    }

    /// Whether cards are or may be used here.
    fn uses_cards(&self) -> bool {
        self.config.is_none() || has_card(self.config)
    }
}

fn has_card(config: Option<&Config>) -> bool {
    config.is_some_and(|config| config.networks.values().any(|network| network.uplink.is_some()))
}

/// A check: what it finds, in the order in which it is to be read.
type Check = fn(&Case<'_>) -> Vec<Finding>;

/// All of them, in the order in which they are told.
const CHECKS: &[Check] = &[
    machine::kernel,
    machine::kvm,
    machine::qemu,
    machine::cpus,
    machine::memory,
    machine::huge_pages,
    privileges::capabilities,
    privileges::programs,
    privileges::tun,
    privileges::modules,
    privileges::open_files,
    privileges::locked_memory,
    privileges::forwarding,
    place::state,
    place::sockets,
    cards::there,
    cards::link,
    cards::merging,
    cards::mtu,
    cards::xdp,
    lan::gateways,
    lan::neighbours,
    lan::other_cards,
    lan::hosts_own,
];

/// Examines a machine that is to run this configuration, or any.
pub fn examine(facts: &Facts, config: Option<&Config>) -> Vec<Finding> {
    let case = Case { facts, config };
    CHECKS.iter().flat_map(|check| check(&case)).collect()
}

/// What is wrong with a configuration that could not be read: the machine is examined without.
pub fn misread(errors: &ConfigErrors) -> Vec<Finding> {
    let mistakes = errors.mistakes().iter().map(|mistake| {
        let path = errors.path(mistake).display();
        let place = match errors.position(mistake) {
            Some((line, column)) => format!("{path}:{line}:{column}"),
            None => path.to_string(),
        };
        let cure = mistake.help.clone().unwrap_or_else(|| format!("ipvisor check {path}"));
        Finding::error("configuration", format!("{place}: {}", mistake.message), cure)
    });
    mistakes.collect()
}

/// The same of one that is right.
pub fn read(path: &std::path::Path, config: &Config) -> Finding {
    let (networks, vms) = (config.networks.len(), config.vms.len());
    let path = path.display();
    Finding::ok("configuration", format!("{path} is right (networks: {networks}, VMs: {vms})"))
}

/// Octets as one writes them in the configuration.
fn mib(octets: u64) -> String {
    format!("{}M", octets >> 20)
}
