//! Whether guests run on KVM here, or in software.

use std::path::Path;

use rustix::fs::{Access, access};

/// Who executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// The processor itself.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

/// What was chosen, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The choice.
    pub accel: Accel,
    /// In words, for people who wonder why their guests are slow.
    pub reason: String,
}

impl Choice {
    /// Looks at the machine.
    pub fn of_this_machine() -> Self {
        let module = ["kvm_intel", "kvm_amd"]
            .into_iter()
            .find(|m| Path::new("/sys/module").join(m).is_dir());
        let device = access("/dev/kvm", Access::READ_OK | Access::WRITE_OK);
        Self::decide(module, device.map_err(std::io::Error::from))
    }

    /// The rule. The device node alone does not decide: it also exists where a nested,
    /// paravirtual KVM cannot run ordinary guests.
    fn decide(module: Option<&str>, device: std::io::Result<()>) -> Self {
        let (accel, reason) = match (module, device) {
            (Some(module), Ok(())) => (Accel::Kvm, format!("{module} is loaded")),
            (Some(module), Err(error)) => {
                (Accel::Tcg, format!("{module} is loaded, but /dev/kvm cannot be used: {error}"))
            }
            (None, Ok(())) => (
                Accel::Tcg,
                "/dev/kvm is there, but neither kvm_intel nor kvm_amd, which ordinary guests need"
                    .to_owned(),
            ),
            (None, Err(_)) => (Accel::Tcg, "the machine has no KVM".to_owned()),
        };
        Self { accel, reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn kvm_needs_the_processors_module_and_a_usable_device() {
        let denied = || Err(io::ErrorKind::PermissionDenied.into());
        let accel = |module, device| Choice::decide(module, device).accel;
        assert_eq!(accel(Some("kvm_intel"), Ok(())), Accel::Kvm);
        assert_eq!(accel(Some("kvm_amd"), denied()), Accel::Tcg);
        assert_eq!(accel(None, Ok(())), Accel::Tcg);
        assert_eq!(accel(None, denied()), Accel::Tcg);
        let reason = Choice::decide(Some("kvm_amd"), denied()).reason;
        assert!(reason.contains("/dev/kvm cannot be used: permission denied"), "{reason}");
    }
}
