//! What the TOML reader did not understand, in words that say what to write.
//!
//! # Theory of operation
//! The reader's own message says what it missed at which place. What people get wrong most often is
//! recognised by that message and by the line it is about: a text without quotes, a size without
//! quotes, a name that is there twice, a bracket that is not closed. Everything else is said in the
//! reader's words.

use std::collections::BTreeSet;
use std::ops::Range;

use super::report::Mistake;

/// Octets of a line that is looked at more closely, and repeated in a message.
const LONGEST_LINE: usize = 200;
/// What a line can be.
const LINES: &str = "a line is `key = value`, `[table]`, or begins with `#`";

/// Errors of the reader that are looked at, and mistakes of a file that are reported, at most: after
/// the first few they are echoes.
const LOOKED_AT: usize = 50;
const MOST: usize = 5;

/// The mistakes behind the reader's errors in `text`, one for each line; places are in that text.
pub(super) fn mistakes(errors: &[toml::de::Error], text: &str) -> Vec<Mistake> {
    let mut lines = BTreeSet::new();
    let mut found = Vec::new();
    for error in errors.iter().take(LOOKED_AT) {
        let line = error.span().map(|at| Line::at(text, at.start).start);
        if found.len() < MOST && lines.insert(line) {
            found.extend(mistake(error, text));
        }
    }
    if found.is_empty() {
        // All of them echoes, of nothing that was recognised.
        let first = errors.first().and_then(|error| Some((error, error.span()?)));
        found.extend(first.map(|(error, at)| not_understood(error.message(), &at, text)));
    }
    found
}

/// `None`: it is the echo of another.
fn mistake(error: &toml::de::Error, text: &str) -> Option<Mistake> {
    let said = error.message();
    match error.span() {
        None => {
            let help = "a comma, a quote or a bracket may be missing";
            Some(Mistake::whole(format!("this is not TOML: {said}")).help(help))
        }
        Some(at) if said == "duplicate key" => twice(&at, text),
        Some(at) => Some(not_understood(said, &at, text)),
    }
}

fn not_understood(said: &str, at: &Range<usize>, text: &str) -> Mistake {
    let line = Line::at(text, at.start);
    if line.text.len() > LONGEST_LINE {
        return Mistake::at(at, format!("this is not TOML: {said}")).help(LINES);
    }
    let value = line.value();
    if let Some((key, value)) = &value
        && !value.value.is_empty()
        && wants_quotes(value.value)
    {
        let message = format!("a text stands between quotes: `{}` does not", value.value);
        let help = format!("write `{key} = \"{}\"`", value.value.trim_matches(['"', '\'']));
        return Mistake::at(&value.at, message).help(help);
    }
    let mistake = Mistake::at(at, format!("this is not TOML: {said}"));
    let trimmed = line.text.trim();
    match &value {
        Some((key, value)) if value.value.is_empty() => {
            Mistake::at(at, format!("this is not TOML: `{key}` has no value"))
                .help("write one behind it, or remove the line")
        }
        Some((_, value)) if value.value.starts_with('[') => {
            mistake.help("a list is `[\"one\", \"another\"]`, and ends with `]`")
        }
        Some((_, value)) if value.value.starts_with('{') => {
            mistake.help("a table in one line is `{ key = value, key = value }`")
        }
        Some((_, value)) if value.value.starts_with(['"', '\'']) => {
            mistake.help("a text is in one line, and ends with the quote that it begins with")
        }
        Some(_) => mistake.help("write a text in quotes, a number, true or false"),
        None if trimmed.starts_with('[') => {
            mistake.help("a table begins with a line like `[vm.web]`")
        }
        None => match trimmed.split_once(':') {
            Some((key, rest)) if !key.contains(' ') => {
                Mistake::at(at, "this is not TOML: a key and its value have `=` between them")
                    .help(format!("write `{key} = {}`", rest.trim()))
            }
            _ => mistake.help(LINES),
        },
    }
}

/// A name that is there a second time. `None`: not in its table, which is there twice itself.
fn twice(at: &Range<usize>, text: &str) -> Option<Mistake> {
    let name = text.get(at.clone()).unwrap_or_default().trim_matches(['"', '\'']);
    let line = Line::at(text, at.start);
    if line.text.len() > LONGEST_LINE {
        let help = "remove it from one of the places";
        return Some(Mistake::at(at, "this name is there twice").help(help));
    }
    let first = first(&line, name, text);
    let mistake = match line.header() {
        Some(header) => Mistake::at(at, format!("there are two tables [{header}]"))
            .help("give one of them another name, or write everything into one"),
        None if first.is_none() && line.alone() => return None,
        None => Mistake::at(at, format!("`{name}` is there twice"))
            .help("a key has one value: remove one of them"),
    };
    Some(match first {
        Some(first) => mistake.other(&first, "here first"),
        None => mistake,
    })
}

/// Where the same name stood before: the same table, or the same key of one table.
fn first(line: &Line<'_>, name: &str, text: &str) -> Option<Range<usize>> {
    let before = text.get(..line.start)?;
    let mut end = before.len();
    for earlier in before.split_inclusive('\n').rev() {
        let start = end.saturating_sub(earlier.len());
        end = start;
        let earlier = Line { text: earlier.trim_end_matches(['\n', '\r']), start };
        match (line.header(), earlier.header()) {
            (Some(wanted), Some(found)) if wanted == found => return earlier.find(name),
            (None, Some(_)) => return None,
            (None, None)
                if earlier
                    .value()
                    .is_some_and(|(key, _)| key.trim_matches(['"', '\'']) == name) =>
            {
                return earlier.find(name);
            }
            _ => {}
        }
    }
    None
}

/// Whether a value is a text that lacks a quote: a word, an address, a size with its unit.
fn wants_quotes(value: &str) -> bool {
    let quotes = value.matches(['"', '\'']).count();
    let half = quotes == 1 && (value.starts_with(['"', '\'']) || value.ends_with(['"', '\'']));
    let inner = value.trim_matches(['"', '\'']);
    let plain = |c: char| c.is_alphanumeric() || "._-/:%+".contains(c);
    let word = !inner.is_empty() && inner.chars().all(plain);
    (half || quotes == 0) && word
}

/// One line of the text.
struct Line<'t> {
    text: &'t str,
    start: usize,
}

/// A part of a line.
struct Part<'t> {
    value: &'t str,
    at: Range<usize>,
}

impl<'t> Line<'t> {
    /// The line that `at` is in.
    fn at(text: &'t str, at: usize) -> Self {
        let mut at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at = at.saturating_sub(1);
        }
        let (before, after) = text.split_at_checked(at).unwrap_or((text, ""));
        let start = before.rfind('\n').map_or(0, |n| n.saturating_add(1));
        let end = after.find('\n').map_or(text.len(), |n| at.saturating_add(n));
        Self { text: text.get(start..end).unwrap_or_default().trim_end_matches('\r'), start }
    }

    /// What stands between its brackets, if it begins a table.
    fn header(&self) -> Option<&'t str> {
        let rest = self.text.trim_start().strip_prefix('[')?;
        let (name, _) = rest.trim_start_matches('[').split_once(']')?;
        Some(name.trim())
    }

    /// Key and value, if it has both; a comment behind them left out.
    fn value(&self) -> Option<(&'t str, Part<'t>)> {
        let (key, rest) = self.text.split_once('=')?;
        if key.trim_start().starts_with(['#', '[']) {
            return None;
        }
        let whole = rest.split('#').next().unwrap_or(rest);
        let value = whole.trim();
        let spaces = whole.len().saturating_sub(whole.trim_start().len());
        let start = [key.len(), 1, spaces].into_iter().fold(self.start, usize::saturating_add);
        Some((key.trim(), Part { value, at: start..start.saturating_add(value.len()) }))
    }

    /// Whether it is about one key of a table: with several, as in `{ a = 1, a = 2 }`, or a dotted one,
    /// the first can be anywhere.
    fn alone(&self) -> bool {
        self.value().is_some_and(|(key, value)| !key.contains('.') && !value.value.contains('='))
    }

    /// Where `name` first stands in it.
    fn find(&self, name: &str) -> Option<Range<usize>> {
        let start = self.start.saturating_add(self.text.find(name)?);
        Some(start..start.saturating_add(name.len()))
    }
}
