//! `events`: one line each.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use base::control::{Event, EventLevel};

use super::units::time;

/// Writes one event.
pub fn event(out: &mut impl Write, event: &Event) -> io::Result<()> {
    let (style, word) = match event.level {
        EventLevel::Info => (Style::new(), "info   "),
        EventLevel::Warning => (AnsiColor::Yellow.on_default(), "warning"),
        EventLevel::Error => (AnsiColor::Red.on_default(), "error  "),
    };
    let Event { subject, kind, text, .. } = event;
    writeln!(out, "{}  {style}{word}{style:#}  {subject}  {kind}: {text}", time(event.at))?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_with_its_time_and_whom_it_is_about() {
        let mut out = Vec::new();
        let happened = Event {
            sequence: 4,
            at: 1_709_164_800_000,
            level: EventLevel::Info,
            kind: "vm_started".into(),
            subject: "vm/web".into(),
            text: "process 812".into(),
        };
        event(&mut out, &happened).unwrap();
        let line = "2024-02-29 00:00:00Z  info     vm/web  vm_started: process 812\n";
        assert_eq!(String::from_utf8(out).unwrap(), line);
    }
}
