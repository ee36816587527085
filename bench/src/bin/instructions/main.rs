//! How many instructions the base spends on a datagram: a measure that does not depend on how fast
//! the machine happens to be.
//!
//! # Theory of operation
//! ```text
//! check, write ── for each case, a short and a long run:
//!                 valgrind --tool=callgrind ── instructions run CASE COUNT   (this program again)
//!                                               worker's thread: counted
//!                                               drivers' thread: left out
//! ```
//! The difference of the two runs, divided by the difference of their datagrams, is what one
//! datagram costs; all that comes before and after the batches is the same in both and falls out.
//! `check` compares it with `instructions.toml` and fails for what got dearer, `write` writes it there. What
//! got cheaper is told, and should be written down too, or the next change may spend it unseen. With another compiler than the record's the
//! counts are shown and not judged.
//!
//! # Limits
//! Instructions are not time: a cache miss costs nothing here, and the kernel's own work is not
//! seen. The program is built by a profile of its own (`counted`), without optimisation across
//! crates, because that makes one crate's code depend on what else is in the program.

mod cable;
mod callgrind;
mod cases;
mod record;
mod stage;

use std::path::Path;
use std::process::ExitCode;

use record::{Record, Verdict};

const USAGE: &str = "usage: instructions check|write";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["check"] => compare(false),
        ["write"] => compare(true),
        ["run", case, count] => match (cases::find(case), count.parse()) {
            (Some(case), Ok(count)) => {
                stage::run(&case, count);
                return ExitCode::SUCCESS;
            }
            _ => Err(USAGE.into()),
        },
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Counts all cases and compares them with the record, or writes it; whether they agree.
fn compare(write: bool) -> Result<bool, Box<dyn std::error::Error>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.toml");
    let mut record = Record::read(&path)?;
    let compiler = callgrind::compiler()?;
    let root = rustix::process::geteuid().is_root();
    let (mut agrees, mut changed) = (true, false);
    println!("instructions of the base for a datagram:");
    for case in cases::ALL {
        if case.needs_card() && !root {
            println!("{:>18}       not counted: needs root", case.name);
            agrees = false;
            continue;
        }
        let counted = callgrind::count(&case)?;
        let verdict = record.judge(case.name, counted);
        println!("{:>18} {counted:>7}  {verdict}", case.name);
        changed |= record.instructions.insert(case.name.to_owned(), counted) != Some(counted);
        agrees &= matches!(verdict, Verdict::Same | Verdict::Cheaper { .. });
    }
    if write {
        if changed {
            record.compiler = compiler;
            std::fs::write(&path, record.to_text())?;
            println!("written to {}", path.display());
        }
        return Ok(true);
    }
    if record.compiler != compiler {
        // Other code does not say that the source became dearer.
        let theirs = &record.compiler;
        println!("shown, not judged: the record was counted with {theirs}, this is {compiler}");
        return Ok(true);
    }
    if !agrees {
        println!("If that is meant, `make count WRITE=1` writes the new numbers.");
    }
    Ok(agrees)
}
