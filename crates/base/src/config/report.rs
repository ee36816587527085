//! Mistakes in a configuration, and how they are shown to the person who made them.
//!
//! # Theory of operation
//! A [`Mistake`] is a place in the text, what is wrong there, and what to write instead. Reading
//! goes on after a mistake, so that one look at the file finds as many as possible; each rule
//! reports at most once for one place. [`ConfigErrors`] is the result: `Display` shows every
//! mistake with file, line, column and the line itself.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

/// Mistakes shown in full; the rest are only counted.
const SHOWN: usize = 20;

/// Octets of a line that are shown; a longer one is shown by its number only.
const LONGEST_LINE: usize = 500;

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

/// Everything that is wrong with a configuration: at least one mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    path: PathBuf,
    text: String,
    mistakes: Vec<Mistake>,
}

impl ConfigErrors {
    /// Takes mistakes in any order; those in the text come first, in its order.
    pub(super) fn new(path: &Path, text: &str, mut mistakes: Vec<Mistake>) -> Self {
        mistakes.sort_by_key(|m| m.at.as_ref().map_or(usize::MAX, |at| at.start));
        mistakes.dedup();
        Self { path: path.to_owned(), text: text.to_owned(), mistakes }
    }

    /// The mistakes, in the order of the text.
    pub fn mistakes(&self) -> &[Mistake] {
        &self.mistakes
    }

    /// The file they were made in.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Line and column (both from 1, columns in characters) of a mistake that has a place.
    pub fn position(&self, mistake: &Mistake) -> Option<(usize, usize)> {
        let start = self.clamp(mistake.at.as_ref()?).start;
        let before = self.text.get(..start)?;
        let line = before.matches('\n').count().saturating_add(1);
        let column = before.rsplit('\n').next()?.chars().count().saturating_add(1);
        Some((line, column))
    }

    /// The range, cut so that it lies in the text, in one line, and on character borders.
    fn clamp(&self, at: &Range<usize>) -> Range<usize> {
        let border = |mut i: usize| {
            i = i.min(self.text.len());
            while !self.text.is_char_boundary(i) {
                i = i.saturating_sub(1);
            }
            i
        };
        let start = border(at.start);
        let end = border(at.end.max(start));
        let line = self
            .text
            .get(start..end)
            .and_then(|t| t.find(['\n', '\r']))
            .map(|n| start.saturating_add(n));
        start..line.unwrap_or(end)
    }

    /// The octets of the line that `at` starts in, its end of line left out.
    fn line_of(&self, at: usize) -> Range<usize> {
        let start =
            self.text.get(..at).and_then(|t| t.rfind('\n')).map_or(0, |n| n.saturating_add(1));
        let len = self.text.get(at..).and_then(|t| t.find('\n'));
        let end = len.map_or(self.text.len(), |n| at.saturating_add(n));
        start..end
    }

    /// Whether the line can be shown as it is: not endless, and without characters that would
    /// move the cursor of a terminal.
    fn showable(&self, at: &Range<usize>) -> bool {
        let line = self.text.get(self.line_of(at.start)).unwrap_or("");
        let line = line.strip_suffix('\r').unwrap_or(line);
        line.len() <= LONGEST_LINE && !line.chars().any(|c| c.is_control() && c != '\t')
    }

    /// The line that `at` starts in, `line` by number, and the other place with what is between.
    fn snippet(
        &self,
        at: &Range<usize>,
        other: Option<&(Range<usize>, String)>,
        line: usize,
    ) -> Snippet<'_, annotate_snippets::Annotation<'_>> {
        let at = self.clamp(at);
        let mut shown = self.line_of(at.start);
        let mut first = line;
        let mut second = None;
        if let Some((place, why)) = other
            && self.showable(place)
        {
            let place = self.clamp(place);
            let its = self.line_of(place.start);
            let both = shown.start.min(its.start)..shown.end.max(its.end);
            if both.len() <= FARTHEST {
                let above = self.text.get(both.start..shown.start).unwrap_or_default();
                first = line.saturating_sub(above.matches('\n').count());
                shown = both;
                second = Some((place, printable(why)));
            }
        }
        let inside = |r: Range<usize>| {
            r.start.saturating_sub(shown.start)..r.end.saturating_sub(shown.start)
        };
        let annotation = AnnotationKind::Primary.span(inside(at));
        let mut snippet = Snippet::source(self.text.get(shown.clone()).unwrap_or_default())
            .line_start(first)
            .annotation(annotation);
        if let Some((place, why)) = second {
            let annotation = AnnotationKind::Context.span(inside(place)).label(why);
            snippet = snippet.annotation(annotation);
        }
        snippet
    }

    /// One mistake as text.
    fn render(&self, mistake: &Mistake) -> String {
        let title = Level::ERROR.primary_title(printable(&mistake.message));
        let mut group = annotate_snippets::Group::with_title(title);
        let path = printable(&self.path.display().to_string());
        match (&mistake.at, self.position(mistake)) {
            (Some(at), Some((line, _))) if self.showable(at) => {
                group = group.element(self.snippet(at, mistake.other.as_ref(), line).path(path));
            }
            (_, Some((line, column))) => {
                let origin = annotate_snippets::Origin::path(path).line(line).char_column(column);
                group = group.element(origin);
            }
            _ => group = group.element(annotate_snippets::Origin::path(path)),
        }
        if let Some(help) = &mistake.help {
            group = group.element(Level::HELP.message(printable(help)));
        }
        Renderer::plain().render(&[group])
    }
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
        let errors = ConfigErrors::new(Path::new("net.toml"), text, vec![mistake]);
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
            let shown = ConfigErrors::new(Path::new("n"), &text, vec![mistake]).to_string();
            assert!(shown.contains("n:1:5"), "{shown}");
            assert!(shown.len() < 200 && !shown.contains('\u{1b}'), "{shown}");
        }
    }

    #[test]
    fn what_exceeds_the_screen_is_counted() {
        let many = (0..25).map(|i| Mistake::at(&(i..i + 1), format!("no. {i}"))).collect();
        let shown = ConfigErrors::new(Path::new("n"), &"x".repeat(30), many).to_string();
        assert!(shown.contains("no. 19") && !shown.contains("no. 20"), "{shown}");
        assert!(shown.ends_with("and 5 more like these"), "{shown}");
    }
}
