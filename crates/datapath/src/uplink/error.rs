//! Errors of opening and changing the ways out: what was tried, and what is missing.

use std::io;

use crate::netlink::{NetlinkError, SETCAP};

/// A control-side error. The datapath's own refusals are [`super::Refusal`].
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// The process lacks a capability.
    #[error("cannot {action}: this needs {capability}; {SETCAP}")]
    Missing {
        /// What was tried.
        action: String,
        /// The capability's name.
        capability: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refused for another reason.
    #[error("cannot {action}")]
    Kernel {
        /// What was tried.
        action: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The verifier refused a program: the kernel lacks something that the program needs.
    #[error("cannot load the {program} program into the kernel: {log}")]
    Program {
        /// Which program.
        program: &'static str,
        /// The last lines of the verifier's log.
        log: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The card is not there, or is no card for this.
    #[error("link {link} {why}")]
    Card {
        /// Its name or number.
        link: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// What a predecessor left cannot be used.
    #[error("cannot take over the {object}: {why}")]
    Adopt {
        /// Which object.
        object: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A netlink call failed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

impl UplinkError {
    /// What the kernel refused: a missing capability is named.
    pub(super) fn refused(
        action: impl Into<String>,
        capability: &'static str,
        source: io::Error,
    ) -> Self {
        let action = action.into();
        if source.kind() == io::ErrorKind::PermissionDenied {
            Self::Missing { action, capability, source }
        } else {
            Self::Kernel { action, source }
        }
    }
}
