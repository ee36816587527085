//! `ssh`: becomes `ssh` to the address that a VM has.
//!
//! # Theory of operation
//! The instance says which addresses the VM has, and which account its cloud-init was told to make;
//! everything else is ssh's own business: keys, agents, what it knows of hosts. There the VM goes by
//! its name (`HostKeyAlias`), not by its address, which another VM may have one day; a key that is
//! seen for the first time is taken as it is, as nobody could know it yet.

use std::ffi::OsString;
use std::net::IpAddr;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use base::control::{Ps, Refusal, VmState, VmStatus};

use crate::failure::Failure;

/// How to log in.
#[derive(Clone, Debug, Default)]
pub struct Ssh {
    /// A private key, if not one that ssh finds by itself.
    pub identity: Option<PathBuf>,
    /// The account, if not the configuration's.
    pub login: Option<String>,
    /// What to run instead of a shell.
    pub command: Vec<String>,
}

/// Becomes `ssh`. Comes back only if that could not be.
pub fn log_in(ps: &Ps, vm: &str, how: &Ssh) -> Result<(), Failure> {
    let found = ps.vms.iter().find(|v| v.name == vm).ok_or_else(|| {
        let refusal = Refusal::unknown_vm(vm, ps.vms.iter().map(|v| v.name.as_str()));
        Failure::new(refusal.message).hint(refusal.hint.unwrap_or_default())
    })?;
    if !matches!(found.state, VmState::Running | VmState::External) {
        return Err(Failure::new(format!("{vm} is {}", found.state.word()))
            .hint(format!("`ipvisor start {vm}` starts it")));
    }
    let words =
        arguments(found, how).ok_or_else(|| Failure::new(format!("{vm} has no address")))?;
    let error = Command::new("ssh").args(words).exec();
    Err(Failure::new(format!("cannot run ssh: {error}")).hint("Debian: apt install openssh-client"))
}

/// The command line, the program's name left out. `None`: there is no address to go to.
fn arguments(vm: &VmStatus, how: &Ssh) -> Option<Vec<OsString>> {
    // IPv4 first: it is there where IPv6 is not, and seldom the other way round.
    let address = vm.addresses.iter().min_by_key(|a| matches!(a, IpAddr::V6(_)))?;
    let mut words: Vec<OsString> = vec![
        "-o".into(),
        format!("HostKeyAlias=ipvisor-{}", vm.name).into(),
        "-o".into(),
        "StrictHostKeyChecking=accept-new".into(),
    ];
    if let Some(identity) = &how.identity {
        words.extend(["-i".into(), identity.into()]);
    }
    if let Some(login) = how.login.as_ref().or(vm.user.as_ref()) {
        words.extend(["-l".into(), login.into()]);
    }
    // Nothing after this is an option.
    words.extend(["--".into(), address.to_string().into()]);
    words.extend(how.command.iter().map(OsString::from));
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(user: Option<&str>, addresses: &[&str]) -> VmStatus {
        VmStatus {
            name: "web".to_owned(),
            state: VmState::Running,
            note: None,
            engine: "qemu".to_owned(),
            pid: None,
            cpus: None,
            memory: None,
            network: "lan".to_owned(),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            user: user.map(str::to_owned),
            mac: None,
            attached: true,
            worker: None,
            quarantine: None,
            seconds: 0,
            restarts: 0,
            usage: Default::default(),
        }
    }

    fn line(vm: &VmStatus, how: &Ssh) -> String {
        let words = arguments(vm, how).unwrap();
        let words: Vec<String> = words.into_iter().map(|w| w.into_string().unwrap()).collect();
        words.join(" ")
    }

    #[test]
    fn a_vm_is_known_by_its_name_and_entered_as_its_user() {
        let both = vm(Some("admin"), &["2001:db8::1", "203.0.113.10"]);
        let expected = "-o HostKeyAlias=ipvisor-web -o StrictHostKeyChecking=accept-new -l admin \
                        -- 203.0.113.10";
        assert_eq!(line(&both, &Ssh::default()), expected);
        let six = vm(None, &["2001:db8::1"]);
        assert!(line(&six, &Ssh::default()).ends_with("=accept-new -- 2001:db8::1"));
        let how = Ssh {
            identity: Some("k".into()),
            login: Some("root".to_owned()),
            command: vec!["-v".to_owned()],
        };
        assert!(line(&both, &how).ends_with("-i k -l root -- 203.0.113.10 -v"));
        assert!(arguments(&vm(None, &[]), &Ssh::default()).is_none());
    }
}
