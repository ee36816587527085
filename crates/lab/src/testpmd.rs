//! DPDK's testpmd: a stock virtio driver (virtio-user) or a stock vhost switch, driven by its
//! prompt.
//!
//! # Theory of operation
//! Each command goes to the program's standard input; its answer is what is printed until the
//! prompt comes back. `stdbuf` makes the program write line by line into a pipe; its log goes to a
//! file. It runs without huge pages, unless it is to be fast, and keeps no files of its own.
//!
//! Packets are counted by the driver underneath ([`Testpmd::statistics`]), from start to end, which
//! includes what testpmd throws away unread when forwarding starts: so between two drivers nothing
//! is missing.
//!
//! A front end that listens (`server`) does not come up before somebody connects:
//! [`Testpmd::start`] gives a handle at once, [`Testpmd::wait_ready`] waits for the prompt.

use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::command::Background;
use crate::error::{Attempt, LabError, Result};

const PROMPT: &str = "testpmd> ";
/// How long a command may take: stopping waits for the cores, which may share one.
const LIMIT: Duration = Duration::from_secs(20);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// How testpmd is run.
#[derive(Clone, Debug)]
pub struct Options {
    ports: Vec<String>,
    peers: Vec<String>,
    mode: String,
    cpu: usize,
    /// With huge pages, and its prompt on this CPU.
    fast: Option<usize>,
    ring: u16,
    arguments: Vec<String>,
}

impl Options {
    /// Without ports, on one CPU, in a forwarding mode: `io`, `rxonly`, `txonly`, `5tswap`,
    /// `flowgen` ...
    pub fn new(mode: &str, cpu: usize) -> Self {
        let (ports, peers, arguments) = (Vec::new(), Vec::new(), Vec::new());
        Self { ports, peers, mode: mode.to_owned(), cpu, fast: None, ring: 1024, arguments }
    }

    /// As fast as it can be: with huge pages, of which the machine must have 128 free ones of 2 MiB,
    /// and with its prompt on another CPU.
    pub fn fast(mut self, prompt: usize) -> Self {
        self.fast = Some(prompt);
        self
    }

    /// Entries of each ring of the virtio drivers added from here on. Where programs share cores,
    /// long rings keep more on its way from one turn of the scheduler to the next.
    pub fn ring(mut self, entries: u16) -> Self {
        self.ring = entries;
        self
    }

    /// Adds a virtio driver that connects to a vhost-user back end at `socket`. `more` is added to
    /// the device's options: `,server=1`, `,packed_vq=1`, `,in_order=1,mrg_rxbuf=0` ...
    pub fn virtio_user(mut self, socket: &Path, mac: &str, more: &str) -> Self {
        let (number, path, ring) = (self.ports.len(), socket.display(), self.ring);
        self.ports.push(format!(
            "net_virtio_user{number},path={path},mac={mac},queues=1,queue_size={ring}{more}"
        ));
        self
    }

    /// Adds a vhost-user back end that listens at `socket` (`,client=1` in `more`: connects).
    pub fn vhost(mut self, socket: &Path, more: &str) -> Self {
        let (number, path) = (self.ports.len(), socket.display());
        self.ports.push(format!("net_vhost{number},iface={path},queues=1{more}"));
        self
    }

    /// To which MAC address port `port` sends what it makes.
    pub fn peer(mut self, port: usize, mac: &str) -> Self {
        self.peers.push(format!("--eth-peer={port},{mac}"));
        self
    }

    /// More arguments for testpmd itself: `--tx-ip=FROM,TO`, `--txpkts=1500` ...
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "dpdk-testpmd"]);
        // Both rings of a port full, as much in between, and some for the cores' caches.
        let buffers = 16_384.max(8 * u32::from(self.ring));
        let megabytes = 256.max(buffers / 128);
        command.args(["--no-pci", "--no-telemetry", "-m", &megabytes.to_string()]);
        match self.fast {
            None => command.args(["--no-huge", "--no-shconf"]),
            Some(_) => command.args(["--in-memory", "--single-file-segments"]),
        };
        let (prompt, cpu) = (self.fast.unwrap_or(self.cpu), self.cpu);
        command.arg(format!("--lcores=0@{prompt},1@{cpu}"));
        command.args(self.ports.iter().map(|p| format!("--vdev={p}")));
        command.args(["--", "-i", "--nb-cores=1", "--no-lsc-interrupt", "--disable-link-check"]);
        command.arg(format!("--total-num-mbufs={buffers}"));
        command.args([format!("--rxd={}", self.ring), format!("--txd={}", self.ring)]);
        command.arg(format!("--forward-mode={}", self.mode));
        command.args(&self.peers).args(&self.arguments);
        command
    }
}

/// What a port's driver has counted since the program started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Packets taken from the ring.
    pub rx_packets: u64,
    /// Octets of them.
    pub rx_bytes: u64,
    /// Packets that the driver refused.
    pub rx_errors: u64,
    /// Packets put into the ring.
    pub tx_packets: u64,
    /// Octets of them.
    pub tx_bytes: u64,
    /// Packets that the driver refused to send.
    pub tx_errors: u64,
}

/// A running testpmd, killed when dropped.
#[derive(Debug)]
pub struct Testpmd {
    process: Background,
    input: ChildStdin,
    output: ChildStdout,
    received: Vec<u8>,
    log: PathBuf,
    ports: usize,
}

impl Testpmd {
    /// Starts the program; it may not be ready yet.
    pub fn start(options: &Options) -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = crate::paths::cache().join("logs");
        std::fs::create_dir_all(&dir).attempt(|| format!("create {}", dir.display()))?;
        let log = dir.join(format!("testpmd-{}-{number}.log", std::process::id()));
        let file = std::fs::File::create(&log).attempt(|| format!("create {}", log.display()))?;
        let mut command = options.command();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(file);
        let mut process = Background::spawn(&mut command)?;
        let pipes = process.child().stdin.take().zip(process.child().stdout.take());
        let (input, output) =
            pipes.ok_or_else(|| LabError::Unexpected("testpmd without pipes".to_owned()))?;
        rustix::io::ioctl_fionbio(&output, true).attempt(|| "set a pipe's mode".to_owned())?;
        let (received, ports) = (Vec::new(), options.ports.len());
        Ok(Self { process, input, output, received, log, ports })
    }

    /// Starts the program and waits for its prompt.
    pub fn run(options: &Options) -> Result<Self> {
        let mut started = Self::start(options)?;
        started.wait_ready(LIMIT)?;
        Ok(started)
    }

    /// Waits for the prompt.
    pub fn wait_ready(&mut self, limit: Duration) -> Result<()> {
        let banner = self.read_to_prompt("start", limit)?;
        // Without a port it starts all the same.
        if banner.matches("Configuring Port").count() == self.ports {
            return Ok(());
        }
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        Err(LabError::Unexpected(format!("testpmd did not get all its ports: {banner}{log}")))
    }

    /// Types a command and gives what it answers.
    pub fn command(&mut self, line: &str) -> Result<String> {
        writeln!(self.input, "{line}").attempt(|| format!("type `{line}` to testpmd"))?;
        self.read_to_prompt(line, LIMIT)
    }

    /// Starts forwarding.
    pub fn forward(&mut self) -> Result<()> {
        self.expect("start", "packet forwarding")
    }

    /// Starts forwarding after sending so many bursts (of 32 packets, or what `--burst` says).
    pub fn forward_after_sending(&mut self, bursts: u32) -> Result<()> {
        self.expect(&format!("start tx_first {bursts}"), "packet forwarding")
    }

    /// Stops forwarding.
    pub fn stop(&mut self) -> Result<()> {
        self.expect("stop", "Done.")
    }

    /// Changes the forwarding mode (while stopped).
    pub fn set_mode(&mut self, mode: &str) -> Result<()> {
        self.expect(&format!("set fwd {mode}"), mode)
    }

    fn expect(&mut self, line: &str, wanted: &str) -> Result<()> {
        let text = self.command(line)?;
        // The echo of the command itself does not count.
        if text.lines().skip(1).any(|l| l.contains(wanted)) {
            return Ok(());
        }
        Err(LabError::Unexpected(format!("testpmd answers `{line}` with: {text}")))
    }

    /// What the port's driver has counted.
    pub fn statistics(&mut self, port: usize) -> Result<Statistics> {
        let text = self.command(&format!("show port stats {port}"))?;
        parse_statistics(&text)
            .ok_or_else(|| LabError::Unexpected(format!("not statistics of testpmd: {text}")))
    }

    /// The program itself.
    pub fn process(&mut self) -> &mut Background {
        &mut self.process
    }

    /// Ends the program in good order.
    pub fn quit(mut self) -> Result<()> {
        writeln!(self.input, "quit").attempt(|| "type `quit` to testpmd".to_owned())?;
        // It still talks: a full pipe would stop it.
        let end = Instant::now() + LIMIT;
        while self.fill(end)? {}
        self.process.wait(LIMIT).map(drop)
    }

    fn read_to_prompt(&mut self, line: &str, limit: Duration) -> Result<String> {
        let end = Instant::now() + limit;
        loop {
            let found = self.received.windows(PROMPT.len()).position(|w| w == PROMPT.as_bytes());
            if let Some(at) = found {
                let text = String::from_utf8_lossy(&self.received[..at]).into_owned();
                self.received.drain(..at + PROMPT.len());
                return Ok(text);
            }
            if Instant::now() >= end || !self.fill(end)? {
                let ended = self.process.ended()?;
                let said = String::from_utf8_lossy(&self.received).into_owned();
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                let log: Vec<_> = log.lines().rev().take(5).collect();
                let what = format!("testpmd's prompt after `{line}`: {said:?}, {log:?}, {ended:?}");
                return Err(LabError::Timeout { what, limit });
            }
        }
    }

    /// Reads what there is, waiting until `end` for it; false when nothing comes any more.
    fn fill(&mut self, end: Instant) -> Result<bool> {
        let what = || "read from testpmd".to_owned();
        let mut bytes = [0; 4096];
        loop {
            match std::io::Read::read(&mut self.output, &mut bytes) {
                Ok(0) => return Ok(false),
                Ok(n) => {
                    self.received.extend_from_slice(&bytes[..n]);
                    return Ok(true);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => return Err(e).attempt(what),
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let mut set = [PollFd::from_borrowed_fd(self.output.as_fd(), PollFlags::IN)];
            match poll(&mut set, Timespec::try_from(left).ok().as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e).attempt(what),
            }
        }
    }
}

fn parse_statistics(text: &str) -> Option<Statistics> {
    let mut words = text.split_whitespace();
    let mut found = Statistics::default();
    let mut fields = 0;
    while let Some(word) = words.next() {
        let field = match word {
            "RX-packets:" => &mut found.rx_packets,
            "RX-bytes:" => &mut found.rx_bytes,
            "RX-errors:" => &mut found.rx_errors,
            "TX-packets:" => &mut found.tx_packets,
            "TX-bytes:" => &mut found.tx_bytes,
            "TX-errors:" => &mut found.tx_errors,
            _ => continue,
        };
        *field = words.next()?.parse().ok()?;
        fields += 1;
    }
    (fields == 6).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_read_whole_or_not_at_all() {
        let text = "show port stats 0\n  #### NIC statistics for port 0 ####\n  \
            RX-packets: 448        RX-missed: 0          RX-bytes:  28672\n  RX-errors: 1\n  \
            RX-nombuf:  0\n  TX-packets: 7          TX-errors: 2          TX-bytes:  420\n";
        let wanted = Statistics {
            rx_packets: 448,
            rx_bytes: 28672,
            rx_errors: 1,
            tx_packets: 7,
            tx_bytes: 420,
            tx_errors: 2,
        };
        assert_eq!(parse_statistics(text), Some(wanted));
        assert_eq!(parse_statistics(&text[..150]), None);
    }
}
