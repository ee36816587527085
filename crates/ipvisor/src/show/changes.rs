//! What another configuration would change: a line for each VM, network, and the instance.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use base::control::Change;

/// Shows them, coloured by what would happen.
pub fn changes(changes: &[Change]) -> io::Result<()> {
    let mut out = anstream::stdout();
    for change in changes {
        let line = change.to_string();
        let colour: Style = match line.chars().next() {
            Some('+') => AnsiColor::Green.on_default(),
            Some('-') => AnsiColor::Red.on_default(),
            Some('!') => AnsiColor::Red.on_default().bold(),
            _ => AnsiColor::Yellow.on_default(),
        };
        writeln!(out, "  {colour}{line}{colour:#}")?;
    }
    Ok(())
}
