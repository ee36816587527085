//! The files of a configuration as one document: read, put together, variables put in their places.
//!
//! # Theory of operation
//! ```text
//! main file --> include --> each file parsed --> merged --> variables --> one table
//!                               places moved to where the file stands in the row (`sources`)
//! ```
//! What is in a file that the main one includes counts as if it stood in the main one, with one
//! difference: nothing is there twice, not even in two files. Included files include no others.
//!
//! # A copy that needs nothing else
//! Whoever takes over must find the configuration as it was accepted, whatever has become of files and
//! environment since. So beside the document there is its text: the main file's own, if it is all
//! there is, or else everything written anew, with variables in their places.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::files::Files;
use super::reader::{At, kind};
use super::report::{Mistake, shifted};
use super::sources::Sources;
use super::units::Wrong;
use super::{LONGEST, malformed, vars};

/// Files that can be included.
const MOST_FILES: usize = 2048;
/// The tables of which each file can have a part.
const SHARED: [&str; 4] = ["host", "network", "vars", "vm"];
/// The key that names further files.
pub(super) const INCLUDE: &str = "include";

/// Who reads, and what for.
pub(super) struct Reading<'a> {
    /// The main file.
    pub(super) path: &'a Path,
    /// Where relative paths start.
    pub(super) directory: &'a Path,
    pub(super) files: &'a dyn Files,
    /// What the environment has; `None`: it was accepted, and all that was to be put in place is.
    pub(super) environment: Option<&'a Environment<'a>>,
}

/// The environment's variables.
pub(super) type Environment<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// The texts of the files that the main one includes.
pub(super) type Included = OnceCell<Vec<String>>;

/// All tables, and the text of a file that has the same in it.
pub(super) struct Document<'t> {
    pub(super) table: DeTable<'t>,
    pub(super) copy: String,
}

/// Reads everything, beginning with the text of the main file; the others are put into `included`.
pub(super) fn read<'t>(
    text: &'t str,
    included: &'t Included,
    reading: &Reading<'_>,
    sources: &mut Sources,
) -> Result<Document<'t>, Vec<Mistake>> {
    let mut main = parse(text, 0).map_err(|errors| malformed_in(errors, text, 0))?;
    let Some(environment) = reading.environment else {
        vars::unescape(&mut main);
        return Ok(Document { table: main, copy: text.to_owned() });
    };
    let plain =
        !(main.contains_key(INCLUDE) || main.contains_key(vars::TABLE) || text.contains("${"));
    let mut mistakes = Vec::new();
    let mut starts = Vec::new();
    let files = included.get_or_init(|| {
        let mut files = Vec::new();
        for (path, at) in named(&mut main, reading, &mut mistakes) {
            match text_of(&path, reading.files) {
                Ok(text) if sources.len().saturating_add(text.len()) <= LONGEST => {
                    starts.push(sources.add(&path, &text));
                    files.push(text);
                }
                Ok(_) => {
                    let help = "give VMs whole prefixes instead of single addresses";
                    mistakes.push(Mistake::at(&at, too_long()).help(help));
                    break;
                }
                Err(wrong) => {
                    mistakes.push(Mistake { help: wrong.help, ..Mistake::at(&at, wrong.message) });
                }
            }
        }
        files
    });
    for (text, start) in files.iter().zip(starts) {
        match parse(text, start) {
            Ok(table) => merge(&mut main, table, &mut mistakes),
            Err(errors) => mistakes.extend(malformed_in(errors, text, start)),
        }
    }
    vars::put(&mut main, environment, sources, &mut mistakes);
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    let copy = if plain { Ok(text.to_owned()) } else { written(&main, reading.path) };
    match copy {
        // A successor could not read it.
        Ok(copy) if copy.len() > LONGEST => {
            let help = "make variables shorter, or give VMs whole prefixes instead of addresses";
            Err(vec![Mistake::whole(too_long()).help(help)])
        }
        Ok(copy) => Ok(Document { table: main, copy }),
        Err(wrong) => {
            let help = "write everything into one file, without variables";
            Err(vec![Mistake::whole(format!("it cannot be kept as a whole: {wrong}")).help(help)])
        }
    }
}

pub(super) fn too_long() -> String {
    format!("the configuration is longer than {LONGEST} octets")
}

/// One file's tables, each place moved by `start`.
fn parse(text: &str, start: usize) -> Result<DeTable<'_>, Vec<toml::de::Error>> {
    let (document, malformed) = DeTable::parse_recoverable(text);
    let table = document.into_inner();
    match (malformed.is_empty(), start) {
        (false, _) => Err(malformed),
        (true, 0) => Ok(table),
        (true, _) => Ok(moved(table, start)),
    }
}

fn malformed_in(errors: Vec<toml::de::Error>, text: &str, start: usize) -> Vec<Mistake> {
    malformed::mistakes(&errors, text).into_iter().map(|mistake| mistake.moved(start)).collect()
}

/// The table with each place moved by `start`.
fn moved(table: DeTable<'_>, start: usize) -> DeTable<'_> {
    let entries = table.into_iter().map(|(key, value)| {
        let at = shifted(&key.span(), start);
        (Spanned::new(at, key.into_inner()), value_moved(value, start))
    });
    entries.collect()
}

fn value_moved(value: Spanned<DeValue<'_>>, start: usize) -> Spanned<DeValue<'_>> {
    let at = shifted(&value.span(), start);
    let value = match value.into_inner() {
        DeValue::Array(values) => {
            let values = values.into_iter().map(|value| value_moved(value, start));
            DeValue::Array(values.collect::<DeArray<'_>>())
        }
        DeValue::Table(table) => DeValue::Table(moved(table, start)),
        other => other,
    };
    Spanned::new(at, value)
}

/// Adds what is in another file.
fn merge<'t>(main: &mut DeTable<'t>, more: DeTable<'t>, out: &mut Vec<Mistake>) {
    for (key, value) in more {
        let name = key.get_ref().to_string();
        if name == INCLUDE {
            let message = "only the main file includes others";
            let help = "name the file in the main file's `include`";
            out.push(Mistake::at(&key.span(), message).help(help));
            continue;
        }
        let Some((first, there)) = main.get_key_value(name.as_str()).map(|(k, v)| (k.span(), v))
        else {
            main.insert(key, value);
            continue;
        };
        let shared = SHARED.contains(&name.as_str())
            && matches!((there.get_ref(), value.get_ref()), (DeValue::Table(_), DeValue::Table(_)));
        if !shared {
            out.push(twice(&format!("`{name}`"), &key.span(), &first));
            continue;
        }
        let there = main.get_mut(name.as_str()).map(Spanned::get_mut);
        let (Some(DeValue::Table(there)), DeValue::Table(more)) = (there, value.into_inner())
        else {
            continue;
        };
        for (inner, value) in more {
            let known = there.get_key_value(inner.get_ref().as_ref()).map(|(k, _)| k.span());
            match known {
                None => drop(there.insert(inner, value)),
                Some(first) => {
                    let called = match name.as_str() {
                        "host" | "vars" => format!("`{}` of [{name}]", inner.get_ref()),
                        _ => format!("[{name}.{}]", inner.get_ref()),
                    };
                    out.push(twice(&called, &inner.span(), &first));
                }
            }
        }
    }
}

fn twice(what: &str, at: &Range<usize>, first: &Range<usize>) -> Mistake {
    Mistake::at(at, format!("{what} is in two files"))
        .other(first, "here first")
        .help("remove one of them, or give it another name")
}

/// Takes `include` out of the main file's tables: the files that it names, in the order of its
/// patterns, those of one pattern sorted by name, each once, and the main file never.
fn named(
    main: &mut DeTable<'_>,
    reading: &Reading<'_>,
    out: &mut Vec<Mistake>,
) -> Vec<(PathBuf, Range<usize>)> {
    let mut found = Vec::new();
    let Some(value) = main.remove(INCLUDE) else { return found };
    let own = reading.directory.join(reading.path.file_name().unwrap_or_default());
    let mut seen = BTreeSet::new();
    let at = value.span();
    let patterns = match value.into_inner() {
        DeValue::Array(patterns) => patterns.into_iter().collect(),
        other => vec![Spanned::new(at.clone(), other)],
    };
    for pattern in patterns {
        let at = pattern.span();
        let DeValue::String(text) = pattern.get_ref() else {
            let message = format!("`{INCLUDE}` cannot be {}", kind(pattern.get_ref()));
            let help = "it must be a list of files and patterns, as in `include = \"vm.d/*.toml\"`";
            out.push(Mistake::at(&at, message).help(help));
            continue;
        };
        let paths = At::new(text.as_ref(), &at).then(out, |text: &&str| matching(text, reading));
        for path in paths.into_iter().flat_map(|paths| paths.value) {
            if path != own && seen.insert(path.clone()) {
                found.push((path, at.clone()));
            }
        }
    }
    if found.len() > MOST_FILES {
        let message = format!("`{INCLUDE}` names {} files", found.len());
        out.push(Mistake::at(&at, message).help(format!("at most {MOST_FILES} are possible")));
        found.clear();
    }
    found
}

/// The files that a pattern names: one, or those of a directory that fit its `*`.
fn matching(pattern: &str, reading: &Reading<'_>) -> Result<Vec<PathBuf>, Wrong> {
    let path = reading.directory.join(pattern);
    let (directory, name) = match (path.parent(), path.file_name().and_then(|n| n.to_str())) {
        (Some(directory), Some(name)) if !pattern.ends_with('/') => (directory, name),
        _ => {
            return Err(Wrong::new(format!("`{pattern}` names no file"))
                .help("a file, or those of a directory: \"vm.d/*.toml\""));
        }
    };
    if directory.to_string_lossy().contains('*') || name.contains(['?', '[', '{']) {
        return Err(Wrong::new(format!("`{pattern}` is no pattern that is known here"))
            .help("one * for any part of a file's name, as in \"vm.d/*.toml\""));
    }
    let Some((before, after)) = name.split_once('*') else { return Ok(vec![path]) };
    if after.contains('*') {
        return Err(Wrong::new(format!("`{pattern}` has more than one *"))
            .help("one is possible, as in \"vm.d/*.toml\""));
    }
    let names = reading.files.list(directory).map_err(|error| {
        let shown = directory.display();
        match error.kind() {
            io::ErrorKind::NotFound => Wrong::new(format!("there is no directory `{shown}`"))
                .help("make it (it may be empty), or leave it out of `include`"),
            _ => Wrong::new(format!("cannot read the directory `{shown}`: {error}"))
                .help("whoever runs `ipvisor` must be allowed to read it"),
        }
    })?;
    let fits = |name: &&String| {
        let rest = name.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
        rest.is_some() && !name.starts_with('.')
    };
    let mut paths: Vec<_> = names.iter().filter(fits).map(|name| directory.join(name)).collect();
    paths.sort();
    Ok(paths)
}

/// The text of an included file.
fn text_of(path: &Path, files: &dyn Files) -> Result<String, Wrong> {
    let shown = path.display();
    let octets = files.read(path, LONGEST).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Wrong::new(format!("there is no file `{shown}`"))
            .help("paths are relative to the main file's directory; a pattern has a *"),
        _ => Wrong::new(format!("cannot read `{shown}`: {error}"))
            .help("whoever runs `ipvisor` must be allowed to read it"),
    })?;
    String::from_utf8(octets).map_err(|_| {
        Wrong::new(format!("`{shown}` is not text")).help("it is TOML, in UTF-8, as the main file")
    })
}

/// Everything anew, as a file that needs no other and no environment.
fn written(table: &DeTable<'_>, main: &Path) -> Result<String, toml::ser::Error> {
    let text = toml::to_string(&plain_table(table))?;
    let main = main.display().to_string();
    Ok(format!("# Made of {} and what belongs to it.\n{text}", main.escape_debug()))
}

fn plain_table(table: &DeTable<'_>) -> toml::Table {
    table.iter().map(|(k, v)| (k.get_ref().to_string(), plain_value(v.get_ref()))).collect()
}

fn plain_value(value: &DeValue<'_>) -> toml::Value {
    use toml::Value;
    match value {
        DeValue::String(text) => Value::String(vars::escaped(text)),
        DeValue::Integer(number) => {
            // One that no key can have would not have been accepted.
            Value::Integer(i64::from_str_radix(number.as_str(), number.radix()).unwrap_or_default())
        }
        DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or_default()),
        DeValue::Boolean(is) => Value::Boolean(*is),
        DeValue::Datetime(date) => Value::Datetime(*date),
        DeValue::Array(values) => {
            Value::Array(values.iter().map(|value| plain_value(value.get_ref())).collect())
        }
        DeValue::Table(table) => Value::Table(plain_table(table)),
    }
}

/// Variables by name.
pub(super) type Variables = BTreeMap<String, String>;
