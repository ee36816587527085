//! Variables: `${name}` in a text, put in its place before anything is read.
//!
//! # Theory of operation
//! `${card}` is the text that `[vars]` has under `card`; `${env.CARD}` is what the environment of
//! the command has under `CARD`; `$${` is `${` itself. That is all: a variable stands in texts only, is
//! a text, and is made of no other variable (of the environment it may be).

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::LONGEST;
use super::document::{Environment, Variables, too_long};
use super::keys;
use super::reader::kind;
use super::report::Mistake;
use super::sources::Sources;
use super::units::Wrong;

/// The table of variables.
pub(super) const TABLE: &str = "vars";
/// What the names of the environment's variables begin with.
const ENVIRONMENT: &str = "env.";

/// Takes the variables out of the document, and puts them in their places.
pub(super) fn put(
    main: &mut DeTable<'_>,
    environment: &Environment<'_>,
    sources: &Sources,
    out: &mut Vec<Mistake>,
) {
    let mut work = Work { variables: None, environment, sources, octets: 0, out };
    let mut variables = Variables::new();
    match main.remove_entry(TABLE) {
        None => {}
        Some((_, value)) if !matches!(value.get_ref(), DeValue::Table(_)) => {
            let message = format!("`{TABLE}` cannot be {}", kind(value.get_ref()));
            let help = "write it as a table: [vars], then lines like `card = \"eth1\"`";
            work.out.push(Mistake::at(&value.span(), message).help(help));
        }
        Some((_, value)) => {
            let DeValue::Table(table) = value.into_inner() else { return };
            for (name, mut value) in table {
                let name = (name.get_ref().to_string(), name.span());
                if let Err(wrong) = named(&name.0) {
                    work.out
                        .push(Mistake { help: wrong.help, ..Mistake::at(&name.1, wrong.message) });
                    continue;
                }
                work.value(&mut value);
                match value.get_ref() {
                    DeValue::String(text) => drop(variables.insert(name.0, text.to_string())),
                    other => {
                        let message =
                            format!("the variable `{}` cannot be {}", name.0, kind(other));
                        let help = format!("a variable is a text: `{} = \"...\"`", name.0);
                        work.out.push(Mistake::at(&value.span(), message).help(help));
                    }
                }
            }
        }
    }
    work.variables = Some(variables);
    work.table(main);
}

/// Brings `$${` to `${` in a document in which all variables are in their places. What looks like one
/// is none: older versions knew no variables.
pub(super) fn unescape(table: &mut DeTable<'_>) {
    for (_, value) in table.iter_mut() {
        unescape_value(value.get_mut());
    }
}

fn unescape_value(value: &mut DeValue<'_>) {
    match value {
        DeValue::String(text) if text.contains("$${") => *text = text.replace("$${", "${").into(),
        DeValue::Array(values) => {
            values.iter_mut().for_each(|value| unescape_value(value.get_mut()));
        }
        DeValue::Table(table) => unescape(table),
        _ => {}
    }
}

/// A text as it is written where it must not be taken for one with variables.
pub(super) fn escaped(text: &str) -> String {
    text.replace("${", "$${")
}

/// Whether a variable can be called that.
fn named(name: &str) -> Result<(), Wrong> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.chars().all(fits) {
        return Ok(());
    }
    Err(Wrong::new(format!("`{name}` cannot be the name of a variable"))
        .help("letters a to z, digits, - and _"))
}

/// The work, as it goes through the document.
struct Work<'a> {
    /// Those that are known; `None`: they are just being read.
    variables: Option<Variables>,
    environment: &'a Environment<'a>,
    sources: &'a Sources,
    /// Octets of all texts that variables were put into.
    octets: usize,
    out: &'a mut Vec<Mistake>,
}

impl Work<'_> {
    fn table(&mut self, table: &mut DeTable<'_>) {
        for (_, value) in table.iter_mut() {
            self.value(value);
        }
    }

    fn value(&mut self, value: &mut Spanned<DeValue<'_>>) {
        let at = value.span();
        match value.get_mut() {
            DeValue::String(text) if text.contains("${") => {
                let made = self.text(text, &at);
                self.octets = self.octets.saturating_add(made.len());
                *text = made.into();
            }
            DeValue::Array(values) => values.iter_mut().for_each(|value| self.value(value)),
            DeValue::Table(table) => self.table(table),
            _ => {}
        }
    }

    /// A text with its variables in their places.
    fn text(&mut self, text: &str, at: &std::ops::Range<usize>) -> String {
        let mut made = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            if let Some(before) = before.strip_suffix('$') {
                made.push_str(before);
                made.push_str("${");
                rest = after;
                continue;
            }
            made.push_str(before);
            let Some((name, behind)) = after.split_once('}') else {
                let help = "close it with `}`; `$${` is the text `${` itself";
                self.out.push(Mistake::at(at, "a variable's name has no end").help(help));
                return made;
            };
            match self.variable(name) {
                Ok(value) if self.octets.saturating_add(made.len()) <= LONGEST => {
                    made.push_str(&value);
                }
                Ok(_) => {
                    let help = "make its variables shorter";
                    self.out.push(Mistake::at(at, too_long()).help(help));
                    return made;
                }
                Err(wrong) => {
                    let at = self.sources.within(at, &format!("${{{name}}}"));
                    self.out.push(Mistake { help: wrong.help, ..Mistake::at(&at, wrong.message) });
                }
            }
            rest = behind;
        }
        made.push_str(rest);
        made
    }

    fn variable(&self, name: &str) -> Result<String, Wrong> {
        if let Some(own) = name.strip_prefix(ENVIRONMENT) {
            return (self.environment)(own).ok_or_else(|| {
                Wrong::new(format!("the environment has no text `{own}`")).help(format!(
                    "set it where the command is run, as in `{own}=... ipvisor up ...`"
                ))
            });
        }
        named(name).map_err(|wrong| match wrong.help {
            Some(help) => {
                Wrong::new(wrong.message).help(format!("{help}; `$${{` is the text `${{` itself"))
            }
            None => Wrong::new(wrong.message),
        })?;
        let Some(variables) = &self.variables else {
            return Err(Wrong::new("a variable is made of no other").help(
                "write out what is in it; `${env.NAME}`, of the environment, is possible here",
            ));
        };
        variables.get(name).cloned().ok_or_else(|| {
            let near = keys::closest(name, variables.keys().map(|k| (k.as_str(), k)));
            Wrong::new(format!("there is no variable `{name}`")).help(match near {
                Some(near) => format!("did you mean `${{{near}}}`?"),
                None => format!(
                    "add `{name} = \"...\"` under [{TABLE}]; `$${{` is the text `${{` itself"
                ),
            })
        })
    }
}
