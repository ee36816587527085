//! Errors of netlink calls: what was asked, and what the kernel said.

use std::io;

/// How to give the capabilities that uplinks need.
pub(crate) const SETCAP: &str =
    "run as root, or `setcap cap_net_raw,cap_net_admin,cap_bpf+ep` on the ipvisor binary";

/// A netlink call that failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The process may not ask this.
    #[error("cannot {action}: this needs CAP_NET_ADMIN; {SETCAP}")]
    Missing {
        /// What was asked.
        action: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refused for another reason.
    #[error("cannot {action}")]
    Kernel {
        /// What was asked.
        action: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl NetlinkError {
    pub(super) fn new(action: impl Into<String>, source: io::Error) -> Self {
        let action = action.into();
        if source.kind() == io::ErrorKind::PermissionDenied {
            Self::Missing { action, source }
        } else {
            Self::Kernel { action, source }
        }
    }

    /// The kernel's error number, 0 if it gave none.
    pub fn errno(&self) -> i32 {
        let (Self::Missing { source, .. } | Self::Kernel { source, .. }) = self;
        source.raw_os_error().unwrap_or(0)
    }
}
