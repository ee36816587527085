//! The file through which the base is told where to die.
//!
//! Its layout is the base's (`crates/datapath/src/faults/order.rs`); the names of the points are
//! read from the file itself, where the base has written them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use lab::Result;
use lab::error::Attempt;
use rustix::process::Pid;

/// Octets of the file.
const LEN: u64 = 4096;
/// Octets of one point's slot.
const SLOT: u64 = 64;
/// Octets of a name.
const NAME: usize = 40;
/// Where in a slot the order stands.
const ORDER: u64 = 40;
/// Where in a slot stands how often the point was passed.
const PASSES: u64 = 48;
/// Where in a slot stands which process did what was ordered.
const WHO: u64 = 56;

/// How the base is to die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// As by `kill -9`: nobody's fault.
    Kill = 1,
    /// By its own making.
    Abort = 2,
    /// The same, by the language's rules.
    Panic = 3,
    /// Not at all: the thread hangs, and the holder must notice.
    Hang = 4,
}

/// The file.
#[derive(Debug)]
pub struct Points {
    file: File,
    path: PathBuf,
}

impl Points {
    /// Makes the file, without any order.
    pub fn create(path: PathBuf) -> Result<Self> {
        let what = || format!("create {}", path.display());
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path);
        let file = file.attempt(what)?;
        file.set_len(LEN).attempt(what)?;
        Ok(Self { file, path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All points, by name, in their order.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for slot in 0..LEN / SLOT {
            let mut octets = [0; NAME];
            self.file.read_exact_at(&mut octets, slot * SLOT).attempt(|| self.what("read"))?;
            let name = String::from_utf8_lossy(&octets).trim_end_matches('\0').to_owned();
            if name.is_empty() {
                break;
            }
            names.push(name);
        }
        Ok(names)
    }

    /// Orders the base to die in this way when it passes point number `point` for the `times`th time
    /// from now.
    pub fn order(&self, point: usize, times: u32, how: How) -> Result<()> {
        let order = u64::from(times) | (how as u64) << 32;
        self.write(point, WHO, 0)?;
        self.write(point, ORDER, order)
    }

    /// The base that did what was ordered last; `None` if nobody has passed the point so often.
    pub fn who(&self, point: usize) -> Result<Option<Pid>> {
        let number = self.read(point, WHO)?;
        Ok(i32::try_from(number).ok().and_then(Pid::from_raw))
    }

    /// Takes the order back.
    pub fn withdraw(&self, point: usize) -> Result<()> {
        self.write(point, ORDER, 0)
    }

    /// How often a point was passed.
    pub fn passes(&self, point: usize) -> Result<u64> {
        self.read(point, PASSES)
    }

    fn read(&self, point: usize, at: u64) -> Result<u64> {
        let mut octets = [0; 8];
        self.file
            .read_exact_at(&mut octets, point as u64 * SLOT + at)
            .attempt(|| self.what("read"))?;
        Ok(u64::from_ne_bytes(octets))
    }

    fn write(&self, point: usize, at: u64, value: u64) -> Result<()> {
        self.file
            .write_all_at(&value.to_ne_bytes(), point as u64 * SLOT + at)
            .attempt(|| self.what("write"))
    }

    fn what(&self, verb: &str) -> String {
        format!("{verb} {}", self.path.display())
    }
}
