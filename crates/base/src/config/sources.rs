//! The files that a configuration was read from, as one row of octets.
//!
//! # Theory of operation
//! ```text
//! net.toml        vm.d/db.toml   vm.d/web.toml
//! 0 ......... 120 | 121 .... 190 | 191 ..... 260     a place: 130..134, whichever file it is in
//! ```
//! A place is a range in that row, so whoever reads values need not know which file they are from,
//! and places can be compared. Between two files one octet is nobody's: the end of a file is a place
//! in that file. Only who shows a place asks for its file, line and column.

use std::ops::Range;
use std::path::{Path, PathBuf};

/// Octets of a line that are shown; a longer one is shown by its number only.
const LONGEST_LINE: usize = 500;

/// All files, the main one first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sources(Vec<Source>);

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) text: String,
    /// Where it begins in the row.
    start: usize,
}

impl Sources {
    /// The main file alone.
    pub(super) fn new(path: &Path, text: &str) -> Self {
        Self(vec![Source { path: path.to_owned(), text: text.to_owned(), start: 0 }])
    }

    /// Adds a file; gives its place in the row.
    pub(super) fn add(&mut self, path: &Path, text: &str) -> usize {
        let start = self.len().saturating_add(1);
        self.0.push(Source { path: path.to_owned(), text: text.to_owned(), start });
        start
    }

    /// Octets of the whole row.
    pub(super) fn len(&self) -> usize {
        self.0.last().map_or(0, |last| last.start.saturating_add(last.text.len()))
    }

    /// The part of a place where `what` stands as it is; if it does not, the whole place.
    pub(super) fn within(&self, at: &Range<usize>, what: &str) -> Range<usize> {
        let found = self.find(at.start).and_then(|source| {
            let local = at.start.checked_sub(source.start)?..at.end.checked_sub(source.start)?;
            let start = at.start.saturating_add(source.text.get(local)?.find(what)?);
            Some(start..start.saturating_add(what.len()))
        });
        found.unwrap_or_else(|| at.clone())
    }

    /// The file that a place is in.
    pub(super) fn find(&self, at: usize) -> Option<&Source> {
        self.0.iter().rev().find(|s| s.start <= at)
    }

    /// The path of the main file.
    pub(super) fn main(&self) -> &Path {
        self.0.first().map_or(Path::new(""), |s| &s.path)
    }
}

impl Source {
    /// A place as a range of the file's own text, cut so that it lies in one line of it, and on
    /// character borders.
    pub(super) fn local(&self, at: &Range<usize>) -> Range<usize> {
        let border = |at: usize| {
            let mut i = at.saturating_sub(self.start).min(self.text.len());
            while !self.text.is_char_boundary(i) {
                i = i.saturating_sub(1);
            }
            i
        };
        let start = border(at.start);
        let end = border(at.end.max(at.start));
        let inside = self.text.get(start..end).unwrap_or_default();
        start..inside.find(['\n', '\r']).map_or(end, |n| start.saturating_add(n))
    }

    /// Line and column of an octet of the text, both from 1, columns in characters.
    pub(super) fn position(&self, at: usize) -> Option<(usize, usize)> {
        let before = self.text.get(..at)?;
        let line = before.matches('\n').count().saturating_add(1);
        let column = before.rsplit('\n').next()?.chars().count().saturating_add(1);
        Some((line, column))
    }

    /// The octets of the line that `at` is in, its end of line left out.
    pub(super) fn line_of(&self, at: usize) -> Range<usize> {
        let before = self.text.get(..at).and_then(|t| t.rfind('\n'));
        let start = before.map_or(0, |n| n.saturating_add(1));
        let len = self.text.get(at..).and_then(|t| t.find('\n'));
        start..len.map_or(self.text.len(), |n| at.saturating_add(n))
    }

    /// Whether the line can be shown as it is: not endless, and without characters that would move
    /// the cursor of a terminal.
    pub(super) fn showable(&self, at: usize) -> bool {
        let line = self.text.get(self.line_of(at)).unwrap_or("");
        let line = line.strip_suffix('\r').unwrap_or(line);
        line.len() <= LONGEST_LINE && !line.chars().any(|c| c.is_control() && c != '\t')
    }
}
