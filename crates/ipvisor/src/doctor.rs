//! `doctor`: examines the machine, with a configuration or without, and shows what was found.

use std::path::{Path, PathBuf};

use base::config;
use base::doctor::{self, Facts};
use base::entry::exit;
use base::state_dir::StateDirError;

use crate::args::Json;
use crate::failure::Failure;
use crate::show::{self, Findings};

/// Examines the machine. A configuration that is wrong is one of the findings.
pub fn examine(
    file: Option<&Path>,
    state_dir: Result<PathBuf, StateDirError>,
    json: Json,
) -> Result<u8, Failure> {
    let checked = file.map(|file| (file, config::load_with_files(file)));
    let (mut found, config) = match &checked {
        None => (Vec::new(), None),
        Some((file, Ok((_, config)))) => (vec![doctor::read(file, config)], Some(config)),
        Some((_, Err(errors))) => (doctor::misread(errors), None),
    };
    let facts = Facts::read(config, state_dir)?;
    found.extend(doctor::examine(&facts, config));
    let findings = Findings::of(found);
    if json.json {
        show::json(&findings)?
    } else {
        show::findings(&findings)?
    }
    Ok(if findings.healthy { exit::CLEAN } else { exit::FAILED })
}
