//! `top` as lines of text: a function of what is known, how it is to be seen, and how much room there is.
//!
//! ```text
//! the instance, and how many VMs are in which state
//! all VMs together
//! why there is nothing newer, if that is so
//! names of the columns, the one that sorts marked
//! a row for each VM, as many as fit
//! keys
//! ```
//! Everything shown is one column wide a character: names, numbers and addresses are ASCII, and the
//! trend is drawn with blocks.

use base::control::{Ps, VmState};

use super::model::{Model, Row, Sort};
use crate::show::{number, per_second, percent, rounded, span};

/// Lines around the rows: three above the names of the columns, these, and the keys.
const AROUND: usize = 5;
/// Columns from which on there is room for addresses.
const WIDE: usize = 120;
/// Columns of the longest address.
const ADDRESS: usize = 39;
/// Less than this shows nothing useful.
const LEAST: Size = Size { columns: 60, rows: 8 };

/// Room on the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Characters in a line.
    pub columns: usize,
    /// Lines.
    pub rows: usize,
}

/// How it is to be seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct View {
    /// What the rows are sorted by.
    pub sort: Sort,
    /// The other way round.
    pub reverse: bool,
    /// Rows that are above the screen.
    pub skipped: usize,
}

/// How a piece of text looks where there are colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    Plain,
    Strong,
    Good,
    Bad,
    Unsettled,
}

impl Look {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Strong => "\x1b[1m",
            Self::Good => "\x1b[32m",
            Self::Bad => "\x1b[31m",
            Self::Unsettled => "\x1b[33m",
        }
    }
}

/// One line: pieces, each with its look.
#[derive(Clone, Debug, Default)]
pub struct Line(Vec<(String, Look)>);

impl Line {
    fn of(text: impl Into<String>, look: Look) -> Self {
        Self(vec![(text.into(), look)])
    }

    fn push(&mut self, text: String, look: Look) {
        self.0.push((text, look));
    }

    /// As it is sent to a terminal: at most so many characters.
    pub fn paint(&self, columns: usize, colours: bool) -> String {
        let (mut room, mut out) = (columns, String::new());
        for (text, look) in &self.0 {
            let shown: String = text.chars().take(room).collect();
            room -= shown.chars().count();
            let code = if colours { look.code() } else { "" };
            let end = if code.is_empty() { "" } else { "\x1b[0m" };
            out.push_str(&format!("{code}{shown}{end}"));
        }
        out
    }
}

/// Rows that fit.
pub fn fitting(size: Size) -> usize {
    size.rows.saturating_sub(AROUND)
}

/// The whole screen: as many lines as there is room for.
pub fn render(model: &Model, view: View, size: Size) -> Vec<Line> {
    if size.columns < LEAST.columns || size.rows < LEAST.rows {
        let Size { columns, rows } = LEAST;
        let text = format!("too small: {columns} x {rows} at least; q quits");
        return vec![Line::of(text, Look::Plain)];
    }
    let rows = model.rows(view.sort, view.reverse);
    let room = fitting(size);
    let skipped = view.skipped.min(rows.len().saturating_sub(room));
    let widths = Widths::of(&rows, size.columns);
    let mut lines = vec![
        model.last().map_or_else(Line::default, head),
        together(model),
        model.trouble.as_ref().map_or_else(Line::default, |why| Line::of(why, Look::Bad)),
        names(view, &widths),
    ];
    lines.extend(rows.iter().skip(skipped).take(room).map(|row| line(row, &widths)));
    lines.resize_with(size.rows.saturating_sub(1), Line::default);
    lines.push(keys(skipped, room, rows.len()));
    lines
}

fn head(ps: &Ps) -> Line {
    let mut line = Line::of(format!("ipvisor {}", ps.instance.version), Look::Strong);
    let up = span(ps.instance.up_seconds);
    line.push(format!(", up {up}   {}", number(ps.vms.len(), "VM")), Look::Plain);
    let states = [
        VmState::Running,
        VmState::External,
        VmState::Starting,
        VmState::Stopping,
        VmState::Waiting,
        VmState::Stopped,
        VmState::Failed,
    ];
    let mut before = ": ";
    for state in states {
        let many = ps.vms.iter().filter(|vm| vm.state == state).count();
        if many > 0 {
            line.push(before.to_owned(), Look::Plain);
            line.push(format!("{many} {}", state.word()), look(state));
            before = ", ";
        }
    }
    line
}

fn together(model: &Model) -> Line {
    let sum = model.sum();
    let vms = model.last().map(|ps| ps.vms.as_slice()).unwrap_or_default();
    let memory = vms.iter().filter_map(|vm| vm.usage.resident).sum();
    let text = format!(
        "CPU {}   memory {}   out {}/s   in {}/s   dropped {}/s",
        percent(sum.cpu.unwrap_or(0.0)),
        rounded(memory),
        per_second(sum.sent),
        per_second(sum.received),
        per_second(sum.dropped),
    );
    Line::of(text, Look::Plain)
}

fn look(state: VmState) -> Look {
    match state {
        VmState::Running => Look::Good,
        VmState::Failed => Look::Bad,
        VmState::Starting | VmState::Stopping | VmState::Waiting => Look::Unsettled,
        VmState::Stopped | VmState::External => Look::Plain,
    }
}

/// How wide the columns are that depend on the room.
struct Widths {
    name: usize,
    trend: usize,
    address: usize,
}

/// The columns of numbers: what sorts by them, their name, and their width.
const NUMBERS: [(Sort, &str, usize); 5] = [
    (Sort::Cpu, "CPU", 6),
    (Sort::Memory, "MEMORY", 7),
    (Sort::Sent, "OUT/S", 6),
    (Sort::Received, "IN/S", 6),
    (Sort::Dropped, "DROP/S", 7),
];
/// Width of the column of states.
const STATE: usize = 8;
/// Between two columns.
const GAP: &str = "  ";

impl Widths {
    fn of(rows: &[Row<'_>], columns: usize) -> Self {
        let longest = rows.iter().map(|row| row.vm.name.len()).max().unwrap_or(0);
        let name = longest.clamp(4, if columns < WIDE { 16 } else { 32 });
        let address = if columns < WIDE { 0 } else { ADDRESS };
        let numbers: usize = NUMBERS.iter().map(|(_, _, width)| width + GAP.len()).sum();
        let used = name + GAP.len() + STATE + numbers + GAP.len();
        let behind = if address > 0 { address + GAP.len() } else { 0 };
        Self { name, trend: columns.saturating_sub(used + behind), address }
    }
}

fn names(view: View, widths: &Widths) -> Line {
    let mark = |sort: Sort, name: &str| match (view.sort == sort, view.reverse) {
        (false, _) => name.to_owned(),
        (true, false) => format!("{name}▼"),
        (true, true) => format!("{name}▲"),
    };
    let mut text =
        format!("{:name$}{GAP}{:STATE$}", mark(Sort::Name, "VM"), "STATE", name = widths.name);
    for (sort, name, width) in NUMBERS {
        text.push_str(&format!("{GAP}{:>width$}", mark(sort, name)));
    }
    text.push_str(&format!("{GAP}{:trend$}", "DATAGRAMS", trend = widths.trend));
    if widths.address > 0 {
        text.push_str(&format!("{GAP}ADDRESS"));
    }
    Line::of(text, Look::Strong)
}

fn line(row: &Row<'_>, widths: &Widths) -> Line {
    let vm = row.vm;
    let name: String = vm.name.chars().take(widths.name).collect();
    let mut line = Line::of(format!("{name:width$}{GAP}", width = widths.name), Look::Plain);
    let (word, look) = match vm.quarantine {
        Some(_) => ("isolated", Look::Bad),
        None => (vm.state.word(), look(vm.state)),
    };
    line.push(format!("{word:STATE$}"), look);
    let known = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    for (sort, _, width) in NUMBERS {
        let (text, look) = match sort {
            Sort::Name => continue,
            Sort::Cpu => (row.rates.and_then(|r| r.cpu).map(percent), Look::Plain),
            Sort::Memory => (vm.usage.resident.map(rounded), Look::Plain),
            Sort::Sent => (row.rates.map(|r| per_second(r.sent)), Look::Plain),
            Sort::Received => (row.rates.map(|r| per_second(r.received)), Look::Plain),
            Sort::Dropped => {
                let drops = row.rates.map(|r| r.dropped);
                let look =
                    if drops.is_some_and(|n| n > 0.0) { Look::Unsettled } else { Look::Plain };
                (drops.map(per_second), look)
            }
        };
        line.push(format!("{GAP}{:>width$}", known(text)), look);
    }
    line.push(format!("{GAP}{}", sparkline(&row.trend, widths.trend)), Look::Plain);
    if let Some(first) = vm.addresses.first().filter(|_| widths.address > 0) {
        line.push(format!("{GAP}{first}"), Look::Plain);
    }
    line
}

/// The last values as blocks, the newest at the right, the highest of them as high as a line.
fn sparkline(values: &[f64], width: usize) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let shown = values.get(values.len().saturating_sub(width)..).unwrap_or_default();
    let highest = shown.iter().copied().fold(0.0, f64::max);
    let block = |value: &f64| match value / highest * 8.0 {
        // Nothing at all is no block, however small the scale.
        _ if *value <= 0.0 => ' ',
        eighths => BLOCKS.get((eighths.ceil() as usize).clamp(1, 8) - 1).copied().unwrap_or(' '),
    };
    let blocks: String = shown.iter().map(block).collect();
    format!("{blocks:>width$}")
}

fn keys(skipped: usize, room: usize, all: usize) -> Line {
    let mut line = Line::of("q", Look::Strong);
    line.push(" quit  ".to_owned(), Look::Plain);
    for (key, what) in [
        ("n", "name"),
        ("c", "CPU"),
        ("m", "memory"),
        ("o", "out"),
        ("i", "in"),
        ("d", "drops"),
        ("r", "reverse"),
    ] {
        line.push(key.to_owned(), Look::Strong);
        line.push(format!(" {what}  "), Look::Plain);
    }
    if all > room {
        let last = (skipped + room).min(all);
        line.push(format!("{}-{last} of {all}", skipped + 1), Look::Plain);
    }
    line
}

#[cfg(test)]
mod tests;
