//! Changes of the configuration under running machines.
//!
//! Each configuration differs from all before in what VMs are told, so that each change is one, also
//! where it is not known whether the last came to pass.

use std::cell::Cell;
use std::fs::File;
use std::process::Stdio;

use lab::Result;
use lab::command::Background;
use lab::error::Attempt;
use lab::instance::Instance;

/// Changes the configuration of an instance.
pub struct Changes<'a> {
    instance: &'a Instance,
    /// The configuration it was started with.
    text: String,
    count: Cell<u8>,
}

impl<'a> Changes<'a> {
    /// Reads the instance's own configuration.
    pub fn new(instance: &'a Instance) -> Result<Self> {
        let own = instance.config_path();
        let text = std::fs::read_to_string(&own).attempt(|| format!("read {}", own.display()))?;
        Ok(Self { instance, text, count: Cell::new(0) })
    }

    /// Begins the next change.
    pub fn begin(&self) -> Result<Background> {
        self.count.set(self.count.get() % 250 + 1);
        let more = format!("dns = [\"198.51.100.{}\"]\nreceive_ring", self.count.get());
        let file = self.instance.dir().join("other.toml");
        let changed = self.text.replacen("receive_ring", &more, 1);
        std::fs::write(&file, changed).attempt(|| format!("write {}", file.display()))?;
        let log = self.instance.dir().join("reload.log");
        let log = File::create(&log).attempt(|| format!("create {}", log.display()))?;
        let mut command = self.instance.command("reload");
        command.arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Background::spawn(&mut command)
    }
}
