//! Takes values of the right kind out of one table of the file, and notes what is wrong with the
//! rest.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{self, Key, Table};
use super::report::{ENOUGH, Mistake};
use super::units::Wrong;

/// A value, and where in the text it stands.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) at: Range<usize>,
}

impl<T> At<T> {
    pub(super) fn new(value: T, at: &Range<usize>) -> Self {
        Self { value, at: at.clone() }
    }

    /// Reads it further; what is wrong is noted.
    pub(super) fn then<U>(
        self,
        out: &mut Vec<Mistake>,
        read: impl FnOnce(&T) -> Result<U, Wrong>,
    ) -> Option<At<U>> {
        match read(&self.value) {
            Ok(value) => Some(At { value, at: self.at }),
            Err(wrong) => {
                out.push(Mistake { help: wrong.help, ..Mistake::at(&self.at, wrong.message) });
                None
            }
        }
    }
}

/// One value of the file.
pub(super) type Value<'t> = &'t Spanned<DeValue<'t>>;

/// The kind of a value, in the words of a person.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// One table of the file, its keys taken out one by one.
pub(super) struct Reader<'t, 'o> {
    table: Table,
    /// Where the table's name stands: the place of what is missing.
    pub(super) at: Range<usize>,
    /// The table in words: `vm web`.
    pub(super) whose: String,
    left: BTreeMap<&'t str, (Range<usize>, Value<'t>)>,
    /// Keys that must be there and are not.
    absent: Vec<&'static Key>,
    pub(super) out: &'o mut Vec<Mistake>,
}

impl<'t, 'o> Reader<'t, 'o> {
    pub(super) fn new(
        table: Table,
        whose: String,
        at: &Range<usize>,
        values: &'t DeTable<'t>,
        out: &'o mut Vec<Mistake>,
    ) -> Self {
        let left = values.iter().map(|(k, v)| (k.get_ref().as_ref(), (k.span(), v))).collect::<_>();
        Self { table, at: at.clone(), whose, left, absent: Vec::new(), out }
    }

    /// Where the key stands, if it is there and was not taken yet.
    pub(super) fn place(&self, key: &str) -> Option<Range<usize>> {
        self.left.get(key).map(|(at, _)| at.clone())
    }

    /// Takes a key out, whatever its value is.
    pub(super) fn take(&mut self, key: &'static str) -> Option<(Range<usize>, Value<'t>)> {
        debug_assert!(keys::find(self.table, key).is_some(), "{key} is not listed");
        self.left.remove(key)
    }

    /// Notes that a value is not of the kind that its key needs.
    pub(super) fn wrong_kind(&mut self, key: &'static str, value: &Spanned<DeValue<'_>>) {
        let Some(known) = keys::find(self.table, key) else { return };
        let message = match value.get_ref() {
            DeValue::String(text) => format!("`{key}` cannot be \"{text}\""),
            other => format!("`{key}` cannot be {}", kind(other)),
        };
        self.out.push(
            Mistake::at(&value.span(), message)
                .help(format!("it must be {}, as in `{key} = {}`", known.form, known.example)),
        );
    }

    /// Notes that a key which must be there is not.
    pub(super) fn missing(&mut self, key: &'static str) {
        self.absent.extend(keys::find(self.table, key));
    }

    /// Leaves aside what was not taken: whether it belongs here depends on a value that is wrong.
    pub(super) fn leave_the_rest(&mut self) {
        self.left.clear();
    }

    pub(super) fn text(&mut self, key: &'static str) -> Option<At<&'t str>> {
        let (_, value) = self.take(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(At::new(text.as_ref(), &value.span())),
            _ => {
                self.wrong_kind(key, value);
                None
            }
        }
    }

    /// A text that is read further.
    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<At<T>> {
        self.text(key)?.then(self.out, |text| read(text))
    }

    /// As `parsed`; a bare number is read as a text that lacks its unit.
    pub(super) fn measured<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<At<T>> {
        let (_, value) = self.take(key)?;
        let text = match value.get_ref() {
            DeValue::String(text) => text.as_ref(),
            DeValue::Integer(number) => number.as_str(),
            _ => {
                self.wrong_kind(key, value);
                return None;
            }
        };
        At::new(text, &value.span()).then(self.out, |text| read(text))
    }

    pub(super) fn boolean(&mut self, key: &'static str) -> Option<bool> {
        let (_, value) = self.take(key)?;
        match value.get_ref() {
            DeValue::Boolean(b) => Some(*b),
            _ => {
                self.wrong_kind(key, value);
                None
            }
        }
    }

    /// A whole number within a range.
    pub(super) fn number(
        &mut self,
        key: &'static str,
        range: std::ops::RangeInclusive<u32>,
    ) -> Option<At<u32>> {
        let (_, value) = self.take(key)?;
        let DeValue::Integer(number) = value.get_ref() else {
            self.wrong_kind(key, value);
            return None;
        };
        let number = i128::from_str_radix(number.as_str(), number.radix()).ok();
        match number.and_then(|n| u32::try_from(n).ok()).filter(|n| range.contains(n)) {
            Some(n) => Some(At::new(n, &value.span())),
            None => {
                let bound = match number {
                    Some(n) if n < i128::from(*range.start()) => "little",
                    _ => "much",
                };
                let help = format!("from {} to {}", range.start(), range.end());
                let message = format!("`{key}` is too {bound}");
                self.out.push(Mistake::at(&value.span(), message).help(help));
                None
            }
        }
    }

    /// A list; a single value counts as a list of one.
    pub(super) fn list(&mut self, key: &'static str) -> Option<At<Vec<Value<'t>>>> {
        let (_, value) = self.take(key)?;
        let values = match value.get_ref() {
            DeValue::Array(values) => values.iter().collect(),
            _ => vec![value],
        };
        Some(At::new(values, &value.span()))
    }

    /// A list of at most `most` texts, each read further; those that are wrong are noted and left
    /// out. `None`: the key is not there.
    pub(super) fn texts<T>(
        &mut self,
        key: &'static str,
        most: usize,
        read: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Option<At<Vec<At<T>>>> {
        let At { value: values, at } = self.list(key)?;
        if values.len() > most {
            let message = format!("`{key}` has {} entries", values.len());
            self.out.push(Mistake::at(&at, message).help(format!("at most {most} are possible")));
            return Some(At::new(Vec::new(), &at));
        }
        let mut read_ones = Vec::new();
        for value in values {
            match value.get_ref() {
                DeValue::String(text) => {
                    let item = At::new(text.as_ref(), &value.span());
                    read_ones.extend(item.then(self.out, |text: &&str| read(text)));
                }
                _ => self.wrong_kind(key, value),
            }
        }
        Some(At { value: read_ones, at })
    }

    /// Notes the keys that nobody knows here, and those that must be there and are not. A key that
    /// is missing under its own name and there under a similar one is one mistake.
    pub(super) fn finish(mut self) {
        for (name, (at, _)) in &self.left {
            if self.out.len() >= ENOUGH {
                break;
            }
            let mistake = Mistake::at(at, format!("there is no `{name}` in {}", self.whose));
            let elsewhere = || Table::ALL.iter().find_map(|t| keys::find(*t, name));
            self.out.push(match (elsewhere(), keys::nearest(self.table, name)) {
                (Some(key), _) => mistake.help(format!("`{name}` belongs in {}", key.table)),
                (None, Some(near)) => {
                    self.absent.retain(|k| k.name != near.name);
                    let (name, example) = (near.name, near.example);
                    mistake.help(format!("did you mean `{name}`? As in `{name} = {example}`"))
                }
                (None, None) => {
                    let all = keys::KEYS.iter().filter(|k| k.table == self.table);
                    let all: Vec<&str> = all.map(|k| k.name).collect();
                    mistake.help(format!("{} can have: {}", self.table, all.join(", ")))
                }
            });
        }
        for key in self.absent {
            let message = format!("{} has no `{}`", self.whose, key.name);
            let help = format!("add a line like `{} = {}`", key.name, key.example);
            self.out.push(Mistake::at(&self.at, message).help(help));
        }
    }
}
