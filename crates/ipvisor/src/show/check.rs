//! `check --json`: what is right or wrong with a configuration, for editors and scripts.

use std::path::{Path, PathBuf};

use base::config::{Config, ConfigErrors, Mistake};
use serde::Serialize;

/// The whole answer.
#[derive(Debug, Serialize)]
pub struct CheckReport {
    file: PathBuf,
    right: bool,
    networks: Vec<String>,
    vms: Vec<String>,
    mistakes: Vec<MistakeReport>,
}

/// One mistake.
#[derive(Debug, Serialize)]
struct MistakeReport {
    /// The file that it is in.
    file: PathBuf,
    line: Option<usize>,
    column: Option<usize>,
    message: String,
    help: Option<String>,
}

impl CheckReport {
    /// What was found in `file`.
    pub fn of(file: &Path, checked: &Result<(String, Config), ConfigErrors>) -> Self {
        let (config, errors) = match checked {
            Ok((_, config)) => (Some(config), None),
            Err(errors) => (None, Some(errors)),
        };
        let mistake = |errors: &ConfigErrors, mistake: &Mistake| {
            let position = errors.position(mistake);
            MistakeReport {
                file: errors.path(mistake).to_owned(),
                line: position.map(|(line, _)| line),
                column: position.map(|(_, column)| column),
                message: mistake.message.clone(),
                help: mistake.help.clone(),
            }
        };
        Self {
            file: file.to_owned(),
            right: config.is_some(),
            networks: config.map(|c| c.networks.keys().cloned().collect()).unwrap_or_default(),
            vms: config.map(|c| c.vms.keys().cloned().collect()).unwrap_or_default(),
            mistakes: errors
                .map(|e| e.mistakes().iter().map(|m| mistake(e, m)).collect())
                .unwrap_or_default(),
        }
    }
}
