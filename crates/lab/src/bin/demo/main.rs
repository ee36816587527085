//! `make demo`: real virtual machines on a network of their own, and what they can reach.
//!
//! # Theory of operation
//! A namespace plays the host, with one end of a veth pair as its adapter card; another namespace
//! at the other end plays a machine outside. `ipvisor up` in the first forms two guests (Debian's
//! kernel). Then every path is measured by ping and iperf3, in both families, while a capture
//! outside collects the MAC addresses seen there and the base's counters tell which way the
//! datagrams went. At the end everything goes, and what the machine looks like is compared with
//! what it looked like before.
//!
//! The machine's own network is not touched.
//!
//! `KEEP=1` keeps it up until Ctrl-C and says what to type. `FAULT=lan` pulls the LAN's cable, to
//! see the demo fail.

mod paths;
mod report;

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use lab::capture::Capture;
use lab::guest::Guest;
use lab::image::Image;
use lab::instance::Instance;
use lab::netns::Snapshot;
use lab::scene::{self, CARD, LAN_CARD, Scene};
use lab::{LabError, Result, interrupt};

use paths::{Grown, Measured, PathName};

/// Names of the guests.
const GUESTS: [&str; 2] = ["web", "db"];
/// Failures that are told one by one.
const SHOWN: usize = 40;
/// How long all of it may take, without fetching what guests are made of and keeping it up.
const LIMIT: Duration = Duration::from_secs(300);
/// How long guests may take to boot and to have their addresses.
const BOOT: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let start = Instant::now();
    let progress = Progress::new();
    let outcome = interrupt::watch().and_then(|()| demo(&progress));
    progress.bar.finish_and_clear();
    let failed = match outcome {
        Ok(seen) => seen,
        Err(error) => {
            println!("demo: FAILED: {error:?}");
            return ExitCode::FAILURE;
        }
    };
    let of = format!("{:.0} s for the demo itself", failed.took.as_secs_f64());
    println!("({:.0} s in all, {of})", start.elapsed().as_secs_f64());
    if failed.wrong.is_empty() {
        println!("demo: all {} paths work", failed.measured);
        return ExitCode::SUCCESS;
    }
    for wrong in failed.wrong.iter().take(SHOWN) {
        println!("demo: FAILED: {wrong}");
    }
    let (wrong, measured) = (failed.wrong.len(), failed.measured);
    println!("demo: {wrong} failures among {measured} paths");
    ExitCode::FAILURE
}

/// What came of it.
struct Outcome {
    /// Paths measured.
    measured: usize,
    /// Everything that is not as it should be, in words.
    wrong: Vec<String>,
    /// How long it took, without fetching what guests are made of and keeping it up.
    took: Duration,
}

fn demo(progress: &Progress) -> Result<Outcome> {
    if !rustix::process::geteuid().is_root() {
        let why = "network namespaces are made by root only: run it as root";
        return Err(LabError::Unexpected(why.to_owned()));
    }
    let image = Image::get(|step| progress.step(step))?;
    let start = Instant::now();
    let machine = Snapshot::of_machine()?;

    progress.step("a host with a card, and a machine outside");
    let scene = Scene::set()?;
    scene.wait_settled()?;
    let host = Snapshot::of(&scene.host)?;
    let outside_sees = MacsSeen::start(&scene)?;

    progress.step("ipvisor up: forming two virtual machines");
    let instance = Instance::up(&scene.host, &configuration(&scene, &image))?;
    let guests = attach(&instance)?;
    interrupt::check()?;
    let fault = std::env::var("FAULT").is_ok_and(|f| f == "lan");
    if fault {
        scene.outside.run(&format!("ip link set {LAN_CARD} down"))?;
    }

    let [web, db] = &guests;
    let stage = paths::Stage { web, db, scene: &scene };
    let (measured, grown) = measure(progress, &stage, &instance)?;
    if fault {
        scene.outside.run(&format!("ip link set {LAN_CARD} up"))?;
        scene.wait_settled()?;
    }
    progress.bar.finish_and_clear();
    report::results(&measured);
    report::picture(&instance, &scene)?;
    report::counters(&grown);
    let mut wrong = paths::failures(&measured);
    wrong.extend(paths::wrong_ways(&grown));
    wrong.extend(outside_sees.wrong(&scene)?);

    let kept = Instant::now();
    if std::env::var("KEEP").is_ok_and(|k| !k.is_empty() && k != "0") {
        report::what_to_type(&instance, &scene)?;
        while !interrupt::is_set() {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    let kept = kept.elapsed();
    progress.step("ipvisor down");
    drop(guests);
    instance.down()?;
    let left = Snapshot::of(&scene.host)?.since(&host);
    wrong.extend(left.lines.into_iter().map(|line| format!("left on the host: {line}")));
    for process in scene.host.processes()? {
        wrong.push(format!("left on the host: process {}", process.as_raw_nonzero()));
    }
    drop(scene);
    let left = Snapshot::of_machine()?.since(&machine);
    wrong.extend(left.lines.into_iter().map(|line| format!("left on this machine: {line}")));
    let took = start.elapsed().saturating_sub(kept);
    if took >= LIMIT {
        let (took, limit) = (took.as_secs(), LIMIT.as_secs());
        wrong.push(format!("it took {took} s, more than {limit} s"));
    }
    Ok(Outcome { measured: measured.len(), wrong, took })
}

fn configuration(scene: &Scene, image: &Image) -> String {
    let mut text = scene.network();
    for (number, name) in (0..).zip(GUESTS) {
        let [v4, v6] = scene::vm(number);
        text.push_str(&format!(
            "\n[vm.{name}]\nkernel = {:?}\ninitramfs = {:?}\ncmdline = {:?}\n\
             memory = \"256M\"\naddresses = [\"{v4}\", \"{v6}\"]\n",
            image.kernel,
            image.initramfs,
            Image::CMDLINE,
        ));
    }
    text
}

/// Waits, for both at once, until the guests have a shell and their addresses.
fn attach(instance: &Instance) -> Result<[Guest; 2]> {
    let ready = |number: u8| -> Result<Guest> {
        let guest = instance.guest(GUESTS[usize::from(number)], BOOT)?;
        guest.wait_for_addresses(&scene::vm(number), BOOT)?;
        Ok(guest)
    };
    let (web, db) = std::thread::scope(|scope| {
        let db = scope.spawn(|| ready(1));
        let web = ready(0);
        (web, db.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    Ok([web?, db?])
}

/// Measures all paths; gives the results and what each path added to the base's counters.
fn measure(
    progress: &Progress,
    stage: &paths::Stage<'_>,
    instance: &Instance,
) -> Result<(Vec<Measured>, Vec<Grown>)> {
    let mut measured = Vec::new();
    let mut grown = Vec::new();
    for path in PathName::ALL {
        let before = instance.counters()?;
        for family in paths::FAMILIES {
            for kind in paths::KINDS {
                interrupt::check()?;
                progress.step(&format!("{path}, {family}, {kind}"));
                let silent = paths::is_silent(&measured, path, family);
                measured.push(stage.measure(path, family, kind, silent));
            }
        }
        grown.push(Grown { path, counters: instance.counters()?.since(&before) });
    }
    Ok((measured, grown))
}

/// The source MAC addresses of what the host's card sends.
struct MacsSeen {
    capture: Capture,
    seen: Arc<Mutex<BTreeSet<[u8; 6]>>>,
}

impl MacsSeen {
    fn start(scene: &Scene) -> Result<Self> {
        let seen = Arc::new(Mutex::new(BTreeSet::new()));
        let into = Arc::clone(&seen);
        let note = move |frame: &lab::capture::Frame| {
            if let Some(mac) = frame.bytes.get(6..).and_then(|b| b.first_chunk::<6>())
                && !frame.outgoing
            {
                into.lock().unwrap_or_else(PoisonError::into_inner).insert(*mac);
            }
            false
        };
        let capture = Capture::start_filtered(&scene.outside, LAN_CARD, Box::new(note))?;
        Ok(Self { capture, seen })
    }

    /// Ends the capture, which must have seen everything; says what was seen, and what of it should
    /// not have been. A capture that did not even see the card was blind.
    fn wrong(self, scene: &Scene) -> Result<Vec<String>> {
        self.capture.stop()?;
        let card = scene.card_mac()?;
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let words: Vec<_> = seen.iter().map(report::mac).collect();
        println!(
            "MAC addresses seen outside: {} ({CARD} is {})",
            words.join(", "),
            report::mac(&card)
        );
        let foreign = seen.iter().filter(|&&mac| mac != card);
        let mut wrong: Vec<_> =
            foreign.map(|mac| format!("outside sees MAC address {}", report::mac(mac))).collect();
        if !seen.contains(&card) {
            wrong.push(format!("outside sees nothing of {CARD}: the capture was blind"));
        }
        Ok(wrong)
    }
}

/// What is being done, shown while it is done.
struct Progress {
    bar: ProgressBar,
    terminal: bool,
}

impl Progress {
    fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = if terminal { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed_precise} {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bar, terminal }
    }

    fn step(&self, what: &str) {
        self.bar.set_message(what.to_owned());
        if !self.terminal {
            eprintln!("demo: {what}");
        }
    }
}
