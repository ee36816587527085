//! The numbers that the repository has, and how others compare with them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Deserialize;

/// By how many of a hundred a number may differ. Repeated runs differ by less than one.
const MARGIN: u64 = 3;

/// The file's contents.
#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// What the numbers were compiled by.
    pub compiler: String,
    /// By case.
    pub instructions: BTreeMap<String, u64>,
}

/// How a number compares with the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As written, within the margin.
    Same,
    /// More than it was.
    Dearer {
        /// What the record says.
        was: u64,
        /// Hundredths more.
        percent: u64,
    },
    /// Less than it was.
    Cheaper {
        /// What the record says.
        was: u64,
        /// Hundredths less.
        percent: u64,
    },
    /// Not in the record.
    New,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same => write!(f, "as before"),
            Self::Dearer { was, percent } => write!(f, "DEARER by {percent} %: was {was}"),
            Self::Cheaper { was, percent } => write!(f, "CHEAPER by {percent} %: was {was}"),
            Self::New => write!(f, "NEW: not in the record"),
        }
    }
}

impl Record {
    /// Reads the file; one that is not there says nothing.
    pub fn read(path: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        match std::fs::read_to_string(path) {
            Ok(text) => {
                toml::from_str(&text).map_err(|e| format!("{}: {e}", path.display()).into())
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(format!("{}: {e}", path.display()).into()),
        }
    }

    /// The file's text.
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "# Instructions of the base for one datagram, as `make count` counts them: compared in\n\
             # `make test`, written by `make count WRITE=1`. Change one only with a reason in the\n\
             # commit.\n\ncompiler = \"{}\"\n\n[instructions]\n",
            self.compiler
        );
        for (case, count) in &self.instructions {
            text.push_str(&format!("{case} = {count}\n"));
        }
        text
    }

    /// Compares what was counted for a case.
    pub fn judge(&self, case: &str, counted: u64) -> Verdict {
        let Some(&was) = self.instructions.get(case) else { return Verdict::New };
        let percent = counted.abs_diff(was) * 100 / was.max(1);
        if counted.abs_diff(was) * 100 <= was * MARGIN {
            Verdict::Same
        } else if counted > was {
            Verdict::Dearer { was, percent }
        } else {
            Verdict::Cheaper { was, percent }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let instructions = [("a".to_owned(), 1000), ("b".to_owned(), 30)].into();
        Record { compiler: "rustc 1.95.0".to_owned(), instructions }
    }

    #[test]
    fn three_of_a_hundred_more_or_less_are_the_same_and_what_exceeds_them_is_told() {
        let judged = [970, 1030, 969, 1031, 2000].map(|n| record().judge("a", n));
        let (was, percent) = (1000, 3);
        assert_eq!(
            judged,
            [
                Verdict::Same,
                Verdict::Same,
                Verdict::Cheaper { was, percent },
                Verdict::Dearer { was, percent },
                Verdict::Dearer { was, percent: 100 },
            ]
        );
        assert_eq!(record().judge("c", 1), Verdict::New);
    }

    #[test]
    fn what_is_written_is_read_again() {
        assert_eq!(toml::from_str::<Record>(&record().to_text()).unwrap(), record());
    }
}
