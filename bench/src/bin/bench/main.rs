//! `make bench`: ipvisor beside its peers, in one run, on the same cores, with the same generator.
//!
//! # Theory of operation
//! ```text
//!  core 1  this program: generator, sender and receiver in one thread
//!  core 0  one switch at a time: ipvisor, OVS-DPDK, testpmd, two copies; the others are stopped
//!          (the kernel's taps switch in the sender's time, on core 1)
//! ```
//! Each case gives every contender a fresh pair of guests (`generator`) and races them (`race`).
//! Then there is little to do: what ipvisor uses at low rates, how long round trips take (`calm`).
//! Rounds go to `target/bench/results.json`; promises (`bars`) are judged from them round by round.
//! The exit status says whether everything could be measured, not whether promises hold.
//!
//! `QUICK=1` takes fewer rounds. `ONLY=` names what is wanted of the cases, `memory`, `rates` and
//! `trips` (`ONLY=64B,rates`). `PUBLISH=1` draws the pictures into `docs/`, not beside the results.
//!
//! # Limits
//! Needs root, two cores that nobody else uses, and huge pages, which are given back.

mod bars;
mod calm;
mod contender;
mod generator;
mod machine;
mod plots;
mod progress;
mod race;
mod results;
mod slice;
mod table;

use std::process::ExitCode;
use std::time::Duration;

use bench::frames::{Ends, Kind, LARGE};
use lab::error::Attempt;
use lab::{LabError, Result, interrupt};

use contender::{Copies, GENERATING, Io, Kernel, Ours, Ovs, Switch, Way, ends, pin};
use generator::{Generator, Guest, Plan, Shape, Template};
use machine::HugePages;
use progress::Progress;
use race::{Effort, Lane, race};
use results::{Measured, Results};
use slice::Slice;

/// How long a switch has to notice that guests have come or gone.
const SETTLE: Duration = Duration::from_millis(300);
/// Rings of ordinary frames, and of large sends: some megabytes, which do not fit a core's own
/// caches.
const ORDINARY: Shape = Shape { entries: 1024, buffer: 2048 };
const LARGE_TX: Shape = Shape { entries: 64, buffer: 1 << 16 };
const LARGE_RX: Shape = Shape { entries: 1024, buffer: 4096 };

/// A case of the race.
struct Case {
    name: &'static str,
    kind: Kind,
    octets: usize,
    unit: &'static str,
    value: fn(&Slice) -> f64,
    kernel: &'static [Way],
}

fn mpps(slice: &Slice) -> f64 {
    slice.rate() / 1e6
}

fn gigabits(slice: &Slice) -> f64 {
    slice.rate() * (LARGE * 8) as f64 / 1e9
}

const SMALL: Case = Case {
    name: "64 B",
    kind: Kind::Udp,
    octets: 64,
    unit: "Mpps",
    value: mpps,
    kernel: &[Way::Bridged, Way::Routed, Way::Masqueraded],
};
const ORDINARY_CASE: Case = Case { name: "1500 B", octets: 1514, kernel: &[], ..SMALL };
const LARGE_CASE: Case = Case {
    name: "64 KiB",
    kind: Kind::LargeTcp,
    octets: LARGE,
    unit: "Gb/s",
    value: gigabits,
    kernel: &[Way::Routed],
};

impl Case {
    fn plan(&self) -> Plan {
        let offloads = self.kind == Kind::LargeTcp;
        let (rx, tx) = if offloads { (LARGE_RX, LARGE_TX) } else { (ORDINARY, ORDINARY) };
        Plan { rx, tx, frame: self.octets, offloads }
    }
}

fn main() -> ExitCode {
    let progress = Progress::new();
    let outcome = interrupt::watch().and_then(|()| bench(&progress));
    progress.end();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("bench: FAILED: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn bench(progress: &Progress) -> Result<()> {
    let rounds = if is_set("QUICK") { 3 } else { 10 };
    let effort = Effort { rounds, slices: 20 };
    let only = std::env::var("ONLY").unwrap_or_default();
    let wanted = |name: &str| {
        let name = name.replace(' ', "");
        only.is_empty() || only.split(',').any(|o| o.replace(' ', "") == name)
    };
    let _alone = lab::paths::alone()?;
    let _pages = HugePages::take()?;
    progress.say("starting the contenders".to_owned());
    let (mut ours, mut io, mut ovs) = (Ours::start()?, Io::start()?, Ovs::start()?);
    let mut copies = Copies::default();
    let mut cases = Vec::new();
    if wanted("memory") {
        let base = calm::memory(ours.instance.base_process()?)?;
        cases.push(Measured::new("memory", "ipvisor", "MiB", vec![base]));
    }
    for switch in [&ours as &dyn Switch, &io, &ovs] {
        switch.pause()?;
    }
    pin(None, GENERATING)?;
    for case in [&SMALL, &ORDINARY_CASE] {
        if wanted(case.name) {
            cases.extend(run(case, &mut [&mut ours, &mut io, &mut ovs], effort, progress)?);
        }
    }
    if wanted(LARGE_CASE.name) {
        cases.extend(run(&LARGE_CASE, &mut [&mut ours, &mut copies], effort, progress)?);
    }
    if wanted("rates") {
        let plan = SMALL.plan();
        let guests = attach(&mut ours, &plan)?;
        guests[1].want_interrupts();
        let template = Template::new(SMALL.kind, ends(), SMALL.octets);
        let mut generator = Generator::new(&guests[0], &guests[1], &template);
        cases.extend(calm::shares(&ours, &mut generator, effort, progress)?);
        ours.resume()?;
        drop(guests);
        std::thread::sleep(SETTLE);
        ours.pause()?;
    }
    if wanted("trips") {
        cases.extend(trips([&mut ours, &mut io, &mut ovs], effort, progress)?);
    }
    progress.end();
    let judged = bars::PROMISES.iter().map(|promise| bars::judge(promise, &cases));
    let judged: Vec<_> =
        judged.filter(|bar| only.is_empty() || !bar.ratio_rounds.is_empty()).collect();
    println!("{}\n{}", table::cases(&cases), table::bars(&judged));
    let results = Results { machine: machine::describe(), cases, bars: judged };
    write(&results, is_set("PUBLISH"))?;
    let lacking = results.cases.iter().filter(|m| m.median.is_nan());
    let lacking: Vec<_> = lacking.map(|m| format!("{} of {}", m.case, m.contender)).collect();
    match lacking.is_empty() {
        true => Ok(()),
        false => Err(LabError::Unexpected(format!("not measured: {}", lacking.join(", ")))),
    }
}

/// Whether a switch of the environment is on.
fn is_set(name: &str) -> bool {
    !matches!(std::env::var(name).as_deref(), Err(_) | Ok("" | "0"))
}

/// Writes the file and draws the pictures.
fn write(results: &Results, publish: bool) -> Result<()> {
    let dir = lab::paths::workspace().join("target/bench");
    std::fs::create_dir_all(&dir).attempt(|| format!("create {}", dir.display()))?;
    let path = dir.join("results.json");
    let text = serde_json::to_string_pretty(results)
        .map_err(|e| LabError::Unexpected(format!("results that cannot be written: {e}")))?;
    std::fs::write(&path, text).attempt(|| format!("write {}", path.display()))?;
    println!("written to {}", path.display());
    let pictures = if publish { lab::paths::workspace().join("docs") } else { dir };
    for picture in plots::draw(&pictures, &results.cases)? {
        println!("drawn: {picture}");
    }
    Ok(())
}

/// Gives a switch two fresh guests, and stops it.
fn attach(switch: &mut dyn Switch, plan: &Plan) -> Result<[Guest; 2]> {
    switch.resume()?;
    let mut guests = [Guest::new(plan)?, Guest::new(plan)?];
    switch.attach(&mut guests, plan)?;
    std::thread::sleep(SETTLE);
    switch.pause()?;
    Ok(guests)
}

/// Takes guests away from their switches.
fn detach(switches: &[&mut dyn Switch], guests: Vec<[Guest; 2]>) -> Result<()> {
    switches.iter().try_for_each(|switch| switch.resume())?;
    drop(guests);
    std::thread::sleep(SETTLE);
    switches.iter().try_for_each(|switch| switch.pause())
}

/// Races these switches, and the kernel, in one case.
fn run(
    case: &Case,
    switches: &mut [&mut dyn Switch],
    effort: Effort,
    progress: &Progress,
) -> Result<Vec<Measured>> {
    progress.say(format!("{}: attaching guests", case.name));
    let plan = case.plan();
    let guests: Vec<_> =
        switches.iter_mut().map(|switch| attach(*switch, &plan)).collect::<Result<_>>()?;
    let template = Template::new(case.kind, ends(), case.octets);
    let mut lanes = Vec::new();
    for (switch, [from, to]) in switches.iter().zip(&guests) {
        lanes.push(Lane::Switch(&**switch, Box::new(Generator::new(from, to, &template))));
    }
    for way in case.kernel {
        lanes.push(Lane::Kernel(Box::new(Kernel::new(*way, case.kind, case.octets)?)));
    }
    let measured = race(case.name, &mut lanes, effort, case.unit, case.value, progress)?;
    drop(lanes);
    detach(switches, guests)?;
    Ok(measured)
}

/// Round trips through these switches.
fn trips(
    mut switches: [&mut dyn Switch; 3],
    effort: Effort,
    progress: &Progress,
) -> Result<Vec<Measured>> {
    let plan = SMALL.plan();
    let guests: Vec<_> =
        switches.iter_mut().map(|switch| attach(*switch, &plan)).collect::<Result<_>>()?;
    let there = ends();
    let back = Ends {
        macs: [contender::MACS[1], there.macs[1]],
        addresses: [there.addresses[1], there.addresses[0]],
    };
    let templates = [there, back].map(|ends| Template::new(SMALL.kind, ends, SMALL.octets));
    let mut lanes: Vec<(&dyn Switch, [Generator<'_>; 2])> = Vec::new();
    for (switch, [a, b]) in switches.iter().zip(&guests) {
        let [there, back] = &templates;
        lanes.push((&**switch, [Generator::new(a, b, there), Generator::new(b, a, back)]));
    }
    let measured = calm::trips(&mut lanes, effort, progress)?;
    drop(lanes);
    detach(&switches, guests)?;
    Ok(measured)
}
