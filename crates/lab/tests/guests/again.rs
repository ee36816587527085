//! Guests that end and begin again: their consoles are let go of, and attached to anew.

use lab::guest::Guest;

use crate::stage::{BOOT, NAMES, Stage};

impl Stage {
    /// All guests, whose consoles can then be attached to again.
    pub fn take_guests(&mut self) -> Vec<Guest> {
        std::mem::take(&mut self.guests)
    }

    /// Attaches to all guests again, which boot anew, and waits for their addresses.
    pub fn attach_again(mut self, count: usize) -> Self {
        let names = NAMES.iter().take(count);
        self.guests = names.map(|name| self.instance.guest(name, BOOT).unwrap()).collect();
        self.with_addresses()
    }
}

/// Types a line that the guest does not live to answer, and listens until it has booted again or its
/// console is closed: a guest whose console nobody reads stands still when it says too much.
pub fn last_command(guest: Guest, line: &str) {
    let mut console = guest.console();
    console.send(format!("9 {line}\n").as_bytes()).unwrap();
    if let Err(error @ lab::LabError::Timeout { .. }) = console.wait_for("guest: ready", BOOT) {
        panic!("`{line}`: {error}");
    }
}
