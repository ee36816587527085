//! Changes of the configuration under running machines.
//!
//! Two configurations that differ in what VMs are told take turns, so that each change is one.

use std::cell::Cell;
use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;

use lab::Result;
use lab::command::Background;
use lab::error::Attempt;
use lab::instance::Instance;

/// What one of the two says more than the other.
const MORE: &str = "dns = [\"203.0.113.53\"]\n";

/// Changes the configuration of an instance back and forth.
pub struct Changes<'a> {
    instance: &'a Instance,
    /// The instance's own, and the other.
    files: [PathBuf; 2],
    next: Cell<usize>,
}

impl<'a> Changes<'a> {
    /// Writes the other configuration beside the instance's own.
    pub fn new(instance: &'a Instance) -> Result<Self> {
        let own = instance.config_path();
        let text = std::fs::read_to_string(&own).attempt(|| format!("read {}", own.display()))?;
        let other = own.with_file_name("other.toml");
        let changed = text.replacen("receive_ring", &format!("{MORE}receive_ring"), 1);
        std::fs::write(&other, changed).attempt(|| format!("write {}", other.display()))?;
        Ok(Self { instance, files: [own, other], next: Cell::new(1) })
    }

    /// Begins the next change.
    pub fn begin(&self) -> Result<Background> {
        let next = self.next.replace(1 - self.next.get());
        let log = self.instance.dir().join("reload.log");
        let log = File::create(&log).attempt(|| format!("create {}", log.display()))?;
        let mut command = self.instance.command("reload");
        command.arg(&self.files[next]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Background::spawn(&mut command)
    }
}
