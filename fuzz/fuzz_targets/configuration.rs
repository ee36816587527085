//! Any text as a configuration: it is taken or refused, and every refusal can be shown.
#![no_main]

use std::io;
use std::path::Path;

use base::config::{Against, Files, Found, check_with};
use libfuzzer_sys::fuzz_target;

/// A machine that has whatever is named, for the same text the same.
struct AnyMachine;

impl Files for AnyMachine {
    fn look(&self, path: &Path) -> io::Result<Found> {
        let octets = path.as_os_str().as_encoded_bytes();
        let sum = octets.iter().fold(0u8, |sum, octet| sum.wrapping_add(*octet));
        Ok(match sum % 8 {
            0 => return Err(io::ErrorKind::NotFound.into()),
            1 => return Err(io::ErrorKind::PermissionDenied.into()),
            2 => Found::Directory,
            3 => Found::Other,
            4 => Found::BlockDevice([0; 4]),
            5 => Found::File(*b"QFI\xfb"),
            _ => Found::File([0; 4]),
        })
    }
}

fuzz_target!(|text: &str| {
    let environment = |name: &str| (name.len() % 2 == 0).then(|| name.to_owned());
    let against = Against { files: &AnyMachine, present: None, environment: &environment };
    match check_with(text, Path::new("/etc/ipvisor/net.toml"), &against) {
        Ok((_, config)) => {
            for vm in config.vms.values() {
                assert!(config.networks.contains_key(&vm.network), "a VM without its network");
            }
        }
        Err(errors) => {
            assert!(!errors.mistakes().is_empty());
            for mistake in errors.mistakes() {
                let whole = mistake.at.clone().unwrap_or(0..0);
                assert!(text.get(whole).is_some(), "a place that is not in the text");
            }
            let shown = errors.to_string();
            assert!(!shown.is_empty());
            assert!(!shown.chars().any(|c| c.is_control() && c != '\n' && c != '\t'));
        }
    }
});
