//! Errors of opening and changing the ways out: which object, what was tried, and what is missing.

use std::io;

/// A control-side error. The datapath's own refusals are [`super::Refusal`].
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// The process lacks a capability.
    #[error(
        "cannot {action}: this needs {capability}; run as root, or give it once with \
         `setcap cap_net_raw,cap_net_admin,cap_bpf+ep` on the ipvisor binary"
    )]
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
    /// What a predecessor left cannot be used.
    #[error("cannot take over the {object}: {why}")]
    Adopt {
        /// Which object.
        object: &'static str,
        /// What is wrong with it.
        why: String,
    },
}
