//! The configuration reader on any text: it never panics, and what it refuses can be shown.

#![no_main]

use std::path::Path;

use base::config::check_accepted;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(errors) = check_accepted(text, Path::new("/etc/ipvisor/net.toml")) {
        assert!(!errors.mistakes().is_empty());
        let shown = errors.to_string();
        assert!(!shown.chars().any(|c| c.is_control() && c != '\n' && c != '\t'));
    }
});
