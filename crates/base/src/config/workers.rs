//! `workers`: a number of threads, or the cores that they keep to.

use std::ops::Range;

use datapath::state::MAX_WORKERS;
use toml::de::DeValue;

use super::keys::{self, Table};
use super::reader::{Value, kind};
use super::report::Mistake;
use super::types::Workers;

/// The highest number of a core that Linux knows.
const LAST_CORE: usize = 1023;

/// `workers` as written.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) workers: Workers,
    /// Where each core stands, if cores are named.
    pub(super) cores_at: Vec<Range<usize>>,
}

/// Reads the value; what is wrong is noted.
pub(super) fn read(value: Value<'_>, out: &mut Vec<Mistake>) -> Option<Draft> {
    let many = |n: usize| -> Result<(), String> {
        match n {
            0 => Err("there must be a worker".to_owned()),
            n if n > MAX_WORKERS => Err(format!("there can be {MAX_WORKERS} workers at most")),
            _ => Ok(()),
        }
    };
    let read = match value.get_ref() {
        DeValue::Integer(_) => match whole(value.get_ref()) {
            Some(n) => many(n).map(|()| vec![None; n]),
            None => many(0).map(|()| Vec::new()),
        },
        DeValue::Array(cores) => many(cores.len()).and_then(|()| {
            let mut list = Vec::new();
            for core in cores.iter() {
                let number = whole(core.get_ref()).filter(|core| *core <= LAST_CORE);
                let Some(number) = number else {
                    return Err(format!("a core is a whole number from 0 to {LAST_CORE}"));
                };
                if list.contains(&Some(number)) {
                    return Err(format!("core {number} is listed twice"));
                }
                list.push(Some(number));
            }
            Ok(list)
        }),
        other => Err(format!("`workers` cannot be {}", kind(other))),
    };
    match read {
        Ok(cores) => {
            let list = match value.get_ref() {
                DeValue::Array(cores) => cores.iter().map(|core| core.span()).collect(),
                _ => Vec::new(),
            };
            Some(Draft { workers: Workers(cores), cores_at: list })
        }
        Err(message) => {
            let mistake = Mistake::at(&value.span(), message);
            out.push(match keys::find(Table::File, "workers") {
                Some(key) => mistake.help(format!(
                    "it must be {}, as in `workers = 2` or `workers = {}`",
                    key.form, key.example
                )),
                None => mistake,
            });
            None
        }
    }
}

/// A whole number that is not negative.
fn whole(value: &DeValue<'_>) -> Option<usize> {
    match value {
        DeValue::Integer(number) => usize::from_str_radix(number.as_str(), number.radix()).ok(),
        _ => None,
    }
}
