//! What another configuration would change: asked of the base that runs, shown before it is done.
//!
//! # Theory of operation
//! Only the base knows what runs, so it says what would change; where none runs, everything that is in
//! the file would come. A base of an older version does not know the question: then there is nothing
//! to show, and what was wished for is done all the same.

use std::path::{Path, PathBuf};

use base::config;
use base::control::{Change, Client, ClientError, RefusalKind};
use serde::Serialize;

use crate::failure::Failure;
use crate::show;

/// How often a base that ends, or a successor, is asked.
const TRIES: usize = 5;

/// In which way something is to be done, and told.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Only shown.
    pub dry_run: bool,
    /// For programs.
    pub json: bool,
}

/// What `--dry-run` shows to programs.
#[derive(Debug, Serialize)]
struct Report {
    /// The configuration.
    config: PathBuf,
    /// Whether nothing stands in the way.
    possible: bool,
    /// What would change.
    changes: Vec<Change>,
}

/// What would change about the instance that runs, shown to people if there is anything. `None`: its
/// base is of an older version, and cannot say.
pub fn of_running(
    dir: &Path,
    path: &Path,
    text: &str,
    manner: Manner,
) -> Result<Option<Vec<Change>>, Failure> {
    let mut tries = 1..TRIES;
    let changes = loop {
        match Client::connect(dir)?.difference(path, text) {
            Ok(changes) => break changes,
            // Another base takes over just now.
            Err(ClientError::Ended) if tries.next().is_some() => {}
            Err(ClientError::Refused(refusal)) if refusal.kind == RefusalKind::BadRequest => {
                return Ok(None);
            }
            Err(error) => return Err(in_the_files_words(error, path)),
        }
    };
    if !manner.json && !manner.dry_run {
        show::changes(&changes)?;
    }
    Ok(Some(changes))
}

/// What the instance finds wrong with a text that was made of several files is said of these, if it
/// is found here too.
fn in_the_files_words(error: ClientError, path: &Path) -> Failure {
    match &error {
        ClientError::Refused(refusal) if refusal.kind == RefusalKind::Configuration => {
            match config::load(path) {
                Err(errors) => Failure::configuration(errors.to_string()),
                Ok(_) => error.into(),
            }
        }
        _ => error.into(),
    }
}

/// Shows what would change; fails if something stands in the way of it.
pub fn show_dry(
    config: &Path,
    changes: Option<Vec<Change>>,
    manner: Manner,
) -> Result<(), Failure> {
    let Some(changes) = changes else {
        return Err(Failure::new("the base that runs cannot say what would change")
            .hint("it is of an older version: `ipvisor upgrade` first"));
    };
    let obstacles: Vec<String> = changes.iter().filter_map(Change::obstacle).collect();
    let possible = obstacles.is_empty();
    if manner.json {
        show::json(&Report { config: config.to_owned(), possible, changes })?;
    } else if changes.is_empty() {
        show::done("nothing to change")?;
    } else {
        show::changes(&changes)?;
    }
    if possible {
        return Ok(());
    }
    Err(Failure::new(format!("nothing would be changed: {}", obstacles.join("; "))))
}

/// What an instance would begin with.
pub fn of_file(file: &Path) -> Result<Vec<Change>, Failure> {
    let loaded = config::load(file);
    let (_, config) = loaded.map_err(|errors| Failure::configuration(errors.to_string()))?;
    Ok(base::instance::beginning(&config))
}

/// Shows what an instance would begin with.
pub fn of_beginning(file: &Path, manner: Manner) -> Result<(), Failure> {
    show_dry(file, Some(of_file(file)?), manner)
}
