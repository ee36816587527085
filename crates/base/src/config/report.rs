//! Mistakes in a configuration, and how they are shown to the person who made them.
//!
//! # Theory of operation
//! A [`Mistake`] is a place in the text, what is wrong there, and what to write instead. Reading
//! goes on after a mistake, so that one look at the file finds as many as possible; each rule
//! reports at most once for one place. [`ConfigErrors`] is the result: `Display` shows every
//! mistake with file, line, column and the line itself.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::sources::{Source, Sources};

/// Mistakes shown in full; the rest are only counted.
const SHOWN: usize = 20;

/// Octets between two places that are shown together.
const FARTHEST: usize = 64 << 10;

/// Mistakes after which no more are looked for.
pub(super) const ENOUGH: usize = 1000;

/// One mistake in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Octets of the text that are wrong. `None`: the file as a whole.
    pub at: Option<Range<usize>>,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
    /// Another place that matters, and why.
    pub other: Option<(Range<usize>, String)>,
}

impl Mistake {
    /// A mistake at a place.
    pub(super) fn at(at: &Range<usize>, message: impl Into<String>) -> Self {
        Self { at: Some(at.clone()), message: message.into(), help: None, other: None }
    }

    /// A mistake of the file as a whole.
    pub(super) fn whole(message: impl Into<String>) -> Self {
        Self { at: None, message: message.into(), help: None, other: None }
    }

    /// The same with its places moved by so many octets.
    pub(super) fn moved(self, by: usize) -> Self {
        let at = self.at.map(|at| shifted(&at, by));
        let other = self.other.map(|(at, why)| (shifted(&at, by), why));
        Self { at, other, ..self }
    }

    /// Adds what to write instead.
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds another place that matters.
    pub(super) fn other(mut self, at: &Range<usize>, why: impl Into<String>) -> Self {
        self.other = Some((at.clone(), why.into()));
        self
    }
}

/// A place moved by so many octets.
pub(super) fn shifted(at: &Range<usize>, by: usize) -> Range<usize> {
    at.start.saturating_add(by)..at.end.saturating_add(by)
}

/// Everything that is wrong with a configuration: at least one mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    sources: Sources,
    mistakes: Vec<Mistake>,
}

impl ConfigErrors {
    /// Takes mistakes in any order; those in the text come first, in its order.
    pub(super) fn new(sources: Sources, mut mistakes: Vec<Mistake>) -> Self {
        mistakes.sort_by_key(|m| m.at.as_ref().map_or(usize::MAX, |at| at.start));
        mistakes.dedup();
        Self { sources, mistakes }
    }

    /// The mistakes, in the order of the text.
    pub fn mistakes(&self) -> &[Mistake] {
        &self.mistakes
    }

    /// The file that a mistake is in; the main file, if it has no place.
    pub fn path(&self, mistake: &Mistake) -> &Path {
        let source = mistake.at.as_ref().and_then(|at| self.sources.find(at.start));
        source.map_or(self.sources.main(), |s| &s.path)
    }

    /// Line and column (both from 1, columns in characters) of a mistake that has a place.
    pub fn position(&self, mistake: &Mistake) -> Option<(usize, usize)> {
        let at = mistake.at.as_ref()?;
        let source = self.sources.find(at.start)?;
        source.position(source.local(at).start)
    }

    /// One mistake as text.
    fn render(&self, mistake: &Mistake) -> String {
        let title = Level::ERROR.primary_title(printable(&mistake.message));
        let mut group = Group::with_title(title);
        let found = mistake.at.as_ref().and_then(|at| Some((at, self.sources.find(at.start)?)));
        match found {
            Some((at, source)) => {
                let other = mistake.other.as_ref();
                let other =
                    other.and_then(|(at, why)| Some((self.sources.find(at.start)?, at, why)));
                let (here, elsewhere) = match other {
                    Some((file, at, why)) if std::ptr::eq(file, source) => {
                        (Some((file.local(at), why)), None)
                    }
                    Some((file, at, why)) => (None, Some((file, file.local(at), why))),
                    None => (None, None),
                };
                group = show(group, source, &source.local(at), here);
                if let Some((file, at, why)) = elsewhere
                    && file.showable(at.start)
                {
                    group = group.element(aside(file, &at, why));
                }
            }
            None => group = group.element(Origin::path(shown(self.sources.main()))),
        }
        if let Some(help) = &mistake.help {
            group = group.element(Level::HELP.message(printable(help)));
        }
        Renderer::plain().render(&[group])
    }
}

/// Adds the line that `at` is in; if it cannot be shown, only which it is.
fn show<'s>(
    group: Group<'s>,
    source: &'s Source,
    at: &Range<usize>,
    other: Option<(Range<usize>, &String)>,
) -> Group<'s> {
    if source.showable(at.start) {
        return group.element(snippet(source, at, other));
    }
    let origin = Origin::path(shown(&source.path));
    group.element(match source.position(at.start) {
        Some((line, column)) => origin.line(line).char_column(column),
        None => origin,
    })
}

/// A place in another file than the mistake's own.
fn aside<'s>(file: &'s Source, at: &Range<usize>, why: &str) -> Snippet<'s, Annotation<'s>> {
    let line = file.line_of(at.start);
    let span = at.start.saturating_sub(line.start)..at.end.saturating_sub(line.start);
    Snippet::source(file.text.get(line.clone()).unwrap_or_default())
        .path(shown(&file.path))
        .line_start(file.position(line.start).map_or(1, |(line, _)| line))
        .annotation(AnnotationKind::Context.span(span).label(printable(why)))
}

/// The line that `at` is in, and the other place in the same file with what is between.
fn snippet<'s>(
    source: &'s Source,
    at: &Range<usize>,
    other: Option<(Range<usize>, &String)>,
) -> Snippet<'s, Annotation<'s>> {
    let mut shown_text = source.line_of(at.start);
    let mut second = None;
    if let Some((place, why)) = other
        && source.showable(place.start)
    {
        let its = source.line_of(place.start);
        let both = shown_text.start.min(its.start)..shown_text.end.max(its.end);
        if both.len() <= FARTHEST {
            shown_text = both;
            second = Some((place, why));
        }
    }
    let inside = |r: &Range<usize>| {
        r.start.saturating_sub(shown_text.start)..r.end.saturating_sub(shown_text.start)
    };
    let line = source.position(shown_text.start).map_or(1, |(line, _)| line);
    let mut snippet = Snippet::source(source.text.get(shown_text.clone()).unwrap_or_default())
        .path(shown(&source.path))
        .line_start(line)
        .annotation(AnnotationKind::Primary.span(inside(at)));
    if let Some((place, why)) = second {
        let annotation = AnnotationKind::Context.span(inside(&place)).label(printable(why));
        snippet = snippet.annotation(annotation);
    }
    snippet
}

/// A path as it is shown.
fn shown(path: &Path) -> String {
    printable(&path.display().to_string())
}

/// The text with everything that could move a terminal's cursor made visible.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c })
        .collect()
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, mistake) in self.mistakes.iter().take(SHOWN).enumerate() {
            if i > 0 {
                f.write_str("\n\n")?;
            }
            f.write_str(&self.render(mistake))?;
        }
        match self.mistakes.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n\nand {more} more like these"),
        }
    }
}

impl std::error::Error for ConfigErrors {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_shows_file_line_column_the_line_and_the_remedy() {
        let text = "[vm.web]\n  cpus = \"two\"\n";
        let mistake = Mistake::at(&(18..23), "`cpus` is a text").help("write `cpus = 2`");
        let errors = ConfigErrors::new(Sources::new(Path::new("net.toml"), text), vec![mistake]);
        let shown = errors.to_string();
        for part in ["error: `cpus` is a text", "net.toml:2:10", "2 |   cpus = \"two\"", "^^^^^"] {
            assert!(shown.contains(part), "{part} not in\n{shown}");
        }
        assert!(shown.ends_with("= help: write `cpus = 2`"), "{shown}");
    }

    #[test]
    fn an_endless_line_and_control_characters_are_not_copied_to_the_terminal() {
        for text in [format!("a = \"{}\"", "x".repeat(100_000)), "a = \"\u{1b}[2J\"".to_owned()] {
            let mistake = Mistake::at(&(4..9), "wrong\u{1b}[2J");
            let shown =
                ConfigErrors::new(Sources::new(Path::new("n"), &text), vec![mistake]).to_string();
            assert!(shown.contains("n:1:5"), "{shown}");
            assert!(shown.len() < 200 && !shown.contains('\u{1b}'), "{shown}");
        }
    }

    #[test]
    fn what_exceeds_the_screen_is_counted() {
        let many = (0..25).map(|i| Mistake::at(&(i..i + 1), format!("no. {i}"))).collect();
        let shown =
            ConfigErrors::new(Sources::new(Path::new("n"), &"x".repeat(30)), many).to_string();
        assert!(shown.contains("no. 19") && !shown.contains("no. 20"), "{shown}");
        assert!(shown.ends_with("and 5 more like these"), "{shown}");
    }
}
