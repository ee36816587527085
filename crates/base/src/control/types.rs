//! What goes over the control socket, as plain values.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What a client can ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// The instance with its networks and VMs: answered by [`Ps`].
    Ps,
    /// Counters: answered by a list of [`OwnerCounters`].
    Counters {
        /// Whose; all if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<CounterOwner>,
    },
    /// Recent events: answered by one [`Event`] per line.
    Events {
        /// Go on with events as they happen.
        #[serde(default)]
        follow: bool,
    },
    /// Start a VM that does not run.
    Start {
        /// Its name.
        vm: String,
    },
    /// Stop a VM: by its power button, then by force.
    Stop {
        /// Its name.
        vm: String,
        /// By force at once.
        #[serde(default)]
        force: bool,
    },
    /// Stop a VM and start it again.
    Restart {
        /// Its name.
        vm: String,
        /// By force at once.
        #[serde(default)]
        force: bool,
    },
    /// Where a VM's console is: answered by [`Console`].
    Console {
        /// Its name.
        vm: String,
    },
    /// Let a quarantined port go on: answered by [`PortReset`].
    PortReset {
        /// Whose.
        vm: String,
    },
    /// Have a VM's port served by another worker: answered by nothing.
    PortMove {
        /// Whose.
        vm: String,
        /// The worker's number, from 0.
        worker: usize,
    },
    /// Go on with another program: answered by [`Switching`].
    Upgrade {
        /// Its file, absolute.
        binary: PathBuf,
    },
    /// Go on with another configuration: answered by [`Switching`].
    Reload {
        /// Where it was read, absolute: what messages call it, and what paths in it are relative to.
        path: PathBuf,
        /// What is in it.
        text: String,
        /// Another program besides: its file, absolute.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        binary: Option<PathBuf>,
    },
    /// What another configuration would change: answered by a list of [`Change`]. Nothing is done.
    ///
    /// [`Change`]: super::Change
    Difference {
        /// As in [`Request::Reload`].
        path: PathBuf,
        /// As in [`Request::Reload`].
        text: String,
    },
    /// Stop all VMs, remove routes and filters, and end.
    Down,
}

/// What is to be different about the next base.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SwitchWish {
    /// The file of its program; the same program if absent.
    pub binary: Option<PathBuf>,
    /// Its configuration, where it was read and what is in it; the same if absent.
    pub config: Option<(PathBuf, String)>,
}

/// Answer to [`Request::Upgrade`] and [`Request::Reload`], when the next base is prepared and about
/// to take over. How that went, it says itself: [`InstanceStatus::takeover`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Switching {
    /// Everything is as it was asked for already.
    Unchanged,
    /// The base that answers, this process, is about to yield.
    Begun {
        /// Its process.
        base: u32,
    },
}

/// How it came to a base.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TakeoverHow {
    /// It is the instance's first.
    #[default]
    First,
    /// The one before it died.
    Death,
    /// The one before it yielded: an upgrade or a reload.
    Switch,
    /// An upgrade or a reload did not work: it is of the last good release.
    Back,
}

/// How it came to a base, and how long that took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeoverStatus {
    /// In which way.
    pub how: TakeoverHow,
    /// For how long nobody carried datagrams, where that is known: in an upgrade or a reload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap_microseconds: Option<u64>,
    /// What became of the one before, if it died.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// One line from the base.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply<T> {
    /// Done; this is the answer.
    Ok(T),
    /// Not done, and why.
    Refused(Refusal),
}

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What programs look at.
    pub kind: RefusalKind,
    /// What people read.
    pub message: String,
    /// What to do instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// The request could not be understood.
    BadRequest,
    /// There is no VM or network of that name.
    Unknown,
    /// Not possible in the VM's present state.
    WrongState,
    /// This VM's engine cannot do that.
    NotSupported,
    /// The configuration is wrong; the message is a whole report.
    Configuration,
    /// It was tried and failed.
    Failed,
    /// The base is ending.
    Stopping,
}

impl Refusal {
    /// A refusal without a hint.
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// The same with what to do instead.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// There is no VM `name`; these there are.
    pub fn unknown_vm<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        let known: Vec<_> = known.into_iter().collect();
        let refusal = Self::new(RefusalKind::Unknown, format!("there is no VM `{name}`"));
        match known.as_slice() {
            [] => refusal.hint("this instance has no VMs"),
            names => refusal.hint(format!("the VMs of this instance: {}", names.join(", "))),
        }
    }
}

/// Answer to [`Request::Ps`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ps {
    /// The instance itself.
    pub instance: InstanceStatus,
    /// Its networks, in the order of the configuration.
    pub networks: Vec<NetworkStatus>,
    /// Its VMs, in the order of the configuration.
    pub vms: Vec<VmStatus>,
}

/// The instance as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// Version of the program that runs.
    pub version: String,
    /// Process of the holder.
    pub holder: u32,
    /// Process of the base.
    pub base: u32,
    /// How often a successor has taken over.
    pub takeovers: u64,
    /// Seconds since `up`.
    pub up_seconds: u64,
    /// The configuration file it was started with, or that of the last reload.
    pub config: PathBuf,
    /// How it came to this base.
    #[serde(default)]
    pub takeover: TakeoverStatus,
    /// Where its sockets are.
    pub state_dir: PathBuf,
}

/// One network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkStatus {
    /// Its name.
    pub name: String,
    /// Its card, if it has one.
    pub uplink: Option<UplinkStatus>,
    /// The TUN device of the host's path, if there is one.
    pub host_device: Option<String>,
    /// Why there is no host path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_host_path: Option<String>,
}

/// A network's card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkStatus {
    /// Its device name.
    pub device: String,
    /// Its MAC address.
    pub mac: Option<String>,
    /// Whether its link is up.
    pub link_up: bool,
    /// Octets of the largest IP datagram on it.
    pub mtu: u32,
    /// The gateways in use.
    pub gateways: Vec<IpAddr>,
}

/// One VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmStatus {
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub state: VmState,
    /// More about the state: why it failed, when it is started again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What runs it: `qemu`, `external` and so on.
    pub engine: String,
    /// Its process, where the base started it.
    pub pid: Option<u32>,
    /// Virtual CPUs; absent for somebody else's VM.
    pub cpus: Option<u32>,
    /// Octets of memory; absent for somebody else's VM.
    pub memory: Option<u64>,
    /// Name of its network.
    pub network: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The account that its cloud-init was told to make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// MAC address of its interface, if known yet.
    pub mac: Option<String>,
    /// Whether a driver is attached to its port and both rings run.
    pub attached: bool,
    /// The worker that serves its port, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<usize>,
    /// Why its port stands still until it is reset: the base has died of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<String>,
    /// Seconds since its process was started; 0 if it has none.
    pub seconds: u64,
    /// How often it was started again, by itself or by wish.
    pub restarts: u32,
    /// What it has used and its port has carried so far.
    #[serde(default)]
    pub usage: VmUsage,
}

/// What a VM has used and its port has carried: sums, of which whoever asks twice makes rates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmUsage {
    /// Milliseconds of processor time that its process has used since it was started, all threads
    /// together; absent where it has none of the base's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_milliseconds: Option<u64>,
    /// Octets of memory that its process has resident, the guest's included; absent likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resident: Option<u64>,
    /// Datagrams taken from it since `up`.
    pub sent: u64,
    /// Octets of them.
    pub sent_bytes: u64,
    /// Datagrams that reached it.
    pub received: u64,
    /// Octets of them.
    pub received_bytes: u64,
    /// Datagrams dropped, of its own and before it, for whatever reason.
    pub dropped: u64,
}

/// What a VM is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VmState {
    /// Its process is being started.
    Starting,
    /// It runs.
    Running,
    /// It was asked to end and has not yet.
    Stopping,
    /// It does not run.
    Stopped,
    /// It waits to be started: again, because it ended by itself, or after others.
    Waiting,
    /// It could not be started, or ended too often.
    Failed,
    /// Somebody else runs it; whether a front end is attached is another field.
    External,
}

impl VmState {
    /// The word that people see.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Waiting => "waiting",
            Self::Failed => "failed",
            Self::External => "external",
        }
    }
}

/// Whose counters. As text: `NAME` or `vm/NAME`, `uplink/NETWORK`, `host/NETWORK`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum CounterOwner {
    /// A VM, by name.
    Vm(String),
    /// A network's card, by the network's name.
    Uplink(String),
    /// The host's own stack, by the network's name.
    Host(String),
}

impl std::fmt::Display for CounterOwner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Vm(name) => write!(f, "vm/{name}"),
            Self::Uplink(name) => write!(f, "uplink/{name}"),
            Self::Host(name) => write!(f, "host/{name}"),
        }
    }
}

impl From<CounterOwner> for String {
    fn from(owner: CounterOwner) -> Self {
        owner.to_string()
    }
}

/// The text names no owner of counters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no owner of counters: write a VM's name, `uplink/NETWORK` or `host/NETWORK`")]
pub struct OwnerError(String);

impl std::str::FromStr for CounterOwner {
    type Err = OwnerError;

    fn from_str(text: &str) -> Result<Self, OwnerError> {
        let (kind, name) = text.split_once('/').unwrap_or(("vm", text));
        if name.is_empty() || name.contains('/') {
            return Err(OwnerError(text.to_owned()));
        }
        match kind {
            "vm" => Ok(Self::Vm(name.to_owned())),
            "uplink" => Ok(Self::Uplink(name.to_owned())),
            "host" => Ok(Self::Host(name.to_owned())),
            _ => Err(OwnerError(text.to_owned())),
        }
    }
}

impl TryFrom<String> for CounterOwner {
    type Error = OwnerError;

    fn try_from(text: String) -> Result<Self, OwnerError> {
        text.parse()
    }
}

/// All counters of one owner, zeroes included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerCounters {
    /// Whose.
    pub owner: CounterOwner,
    /// By name.
    pub counters: BTreeMap<String, u64>,
}

/// Answer to [`Request::Console`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Console {
    /// The Unix socket to connect to: bytes both ways, one client at a time.
    pub socket: PathBuf,
    /// The log of all that the console shows: whoever only wants to see reads this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<PathBuf>,
    /// The lock that whoever types has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyboard: Option<PathBuf>,
}

/// Answer to [`Request::PortReset`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortReset {
    /// Why it was quarantined; absent if it was not, and nothing was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<String>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Grows by one with each event of one base.
    pub sequence: u64,
    /// Milliseconds since 1970 (UTC).
    pub at: u64,
    /// How much it matters.
    pub level: EventLevel,
    /// What kind, as in `port_broken`: for programs.
    pub kind: String,
    /// What it is about: `vm/web`, `network/lan`, `base`.
    pub subject: String,
    /// One sentence.
    pub text: String,
}

/// How much an event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventLevel {
    /// As it should be.
    Info,
    /// Something is not as it should be, and the base copes.
    Warning,
    /// Something does not work.
    Error,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_reads_what_it_writes_and_a_bare_name_is_a_vm() {
        for owner in ["vm/web", "uplink/lan", "host/lan"] {
            assert_eq!(owner.parse::<CounterOwner>().unwrap().to_string(), owner);
        }
        assert_eq!("web".parse(), Ok(CounterOwner::Vm("web".into())));
        for wrong in ["", "vm/", "port/web", "vm/a/b"] {
            assert!(wrong.parse::<CounterOwner>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn requests_look_as_documented() {
        let line = |r: &Request| serde_json::to_string(r).unwrap();
        assert_eq!(line(&Request::Ps), r#"{"do":"ps"}"#);
        let request = Request::Counters { owner: Some(CounterOwner::Uplink("lan".into())) };
        assert_eq!(line(&request), r#"{"do":"counters","owner":"uplink/lan"}"#);
        assert_eq!(serde_json::from_str::<Request>(&line(&request)).unwrap(), request);
        let stop: Request = serde_json::from_str(r#"{"do":"stop","vm":"web"}"#).unwrap();
        assert_eq!(stop, Request::Stop { vm: "web".into(), force: false });
    }

    #[test]
    fn an_unknown_vm_is_refused_with_the_names_there_are() {
        let refusal = Refusal::unknown_vm("wbe", ["web", "db"]);
        assert_eq!(refusal.message, "there is no VM `wbe`");
        assert_eq!(refusal.hint.as_deref(), Some("the VMs of this instance: web, db"));
    }
}
