//! Checks of where an instance keeps its state, and where it awaits front ends.

use super::{Case, Finding};
use crate::config::Config;
use crate::entry::causes;
use crate::state_dir::{StateDir, StateDirError};

pub(super) fn state(case: &Case<'_>) -> Vec<Finding> {
    let (dir, runs) = match &case.facts.state {
        Ok(found) => found,
        Err(error) => return vec![unusable(error)],
    };
    let at = dir.display();
    if let Some(error) = case.config.and_then(|config| too_long(&StateDir::at(dir), config)) {
        return vec![unusable(&error)];
    }
    vec![match runs {
        None => Finding::ok("state", format!("{at} can be used, and no instance uses it")),
        Some(process) => Finding::warning(
            "state",
            format!(
                "an instance runs with {at} already (process {process}): `up` would have it go on \
                 with the file that is named then"
            ),
            "nothing, if that is meant; for a second instance beside it, another --state-dir",
        ),
    }]
}

/// A socket of a VM whose path would be too long.
fn too_long(dir: &StateDir, config: &Config) -> Option<StateDirError> {
    let longest = config.vms.keys().max_by_key(|name| name.len())?;
    dir.port_socket(longest).and_then(|_| dir.vm_socket(longest, "console")).err()
}

fn unusable(error: &StateDirError) -> Finding {
    let (what, cure) = match error {
        StateDirError::NoDefault => (
            "there is no place for it: this user is not root, and XDG_RUNTIME_DIR is not set"
                .to_owned(),
            "name a directory by --state-dir".to_owned(),
        ),
        StateDirError::NotOurs { path, owner, mode } => {
            let path = path.display();
            let what = format!(
                "{path} belongs to user {owner} and has mode {mode:03o}: others could replace its \
                 sockets"
            );
            let me = rustix::process::geteuid().as_raw();
            (what, format!("chown {me} {path} && chmod go-w {path}, or another --state-dir"))
        }
        other => (causes(other), "name another directory by --state-dir".to_owned()),
    };
    Finding::error("state", what, cure)
}

pub(super) fn sockets(case: &Case<'_>) -> Vec<Finding> {
    let all = case.facts.sockets.iter();
    all.map(|(dir, wrong)| {
        let dir = dir.display();
        match wrong {
            None => Finding::ok("sockets", format!("front ends can be awaited in {dir}")),
            Some(why) => Finding::error(
                "sockets",
                format!("front ends cannot be awaited in {dir}: {why}"),
                format!("mkdir -p {dir}, and let this user write there"),
            ),
        }
    })
    .collect()
}
