//! DPDK's testpmd in mode `io`: two copies from ring to ring and nothing looked at, the ceiling.

use std::path::{Path, PathBuf};

use lab::Result;
use lab::testpmd::{Options, Testpmd};
use tempfile::TempDir;

use super::{GENERATING, Processes, Program, SWITCHING};

/// The running program.
pub struct Io {
    processes: Processes,
    sockets: [PathBuf; 2],
    _testpmd: Testpmd,
    _dir: TempDir,
}

impl Io {
    /// Starts it on the switching core; its prompt, which sleeps, is on the other.
    pub fn start() -> Result<Self> {
        let dir = super::directory()?;
        let sockets = ["a", "b"].map(|name| dir.path().join(name));
        let options = Options::new("io", SWITCHING)
            .fast(GENERATING)
            .vhost(&sockets[0], "")
            .vhost(&sockets[1], "");
        let mut testpmd = Testpmd::run(&options)?;
        testpmd.forward()?;
        // `stdbuf` becomes the program that it is told.
        let processes = Processes::new(i32::try_from(testpmd.process().id()));
        Ok(Self { processes, sockets, _testpmd: testpmd, _dir: dir })
    }
}

impl Program for Io {
    const NAME: &'static str = "testpmd io";

    fn sockets(&self) -> [&Path; 2] {
        [&self.sockets[0], &self.sockets[1]]
    }

    fn processes(&self) -> &Processes {
        &self.processes
    }
}
