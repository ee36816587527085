//! `make survive`: the base is killed again and again under running machines, and nothing is lost.
//!
//! # Theory of operation
//! ```text
//!  stage     an instance of the release build with fault injection; its VMs, its LAN
//!  lanes     what is sent between them, datagrams with a number each
//!  load      sends all of it by the clock, and counts what arrives
//!  churn     a VM that connects and negotiates anew all the time
//!  watch     silences and duplicates, as they happen
//!  points    where the base can be told to die
//!  campaign  kills it, at random moments and at the points in turn
//!  changes   of the configuration, while it runs
//!  base      the process: which one, when it died, what it holds
//!  told      what the log says meanwhile: deaths that nobody ordered, and what none must cause
//!  judge     what must be so
//!  report    table, last line
//!  crowd     1,000 ports instead: how long a takeover takes then
//! ```
//! `survive --seconds N` kills for so long, after some time without kills, and ends with one line; its
//! status is 0 only if that line and all else is as it must be. `survive --ports N` measures takeovers
//! with so many ports. `--driver packet|xdp` is how the card is reached; `--rings packed` gives the VMs
//! packed rings, `--workers N` the base so many workers; what is demanded is the same. `--slack N` lets
//! the times, and nothing else, be N times as long: for machines that others use as well.

mod base;
mod campaign;
mod changes;
mod churn;
mod crowd;
mod judge;
mod lanes;
mod load;
mod points;
mod report;
mod stage;
mod told;
mod watch;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::sleep;
use std::time::{Duration, Instant};

use lab::chance::Chance;
use lab::driver::Rings;
use lab::error::{Attempt, LabError};
use lab::instance::Instance;
use lab::{Result, interrupt, paths, scene};

use base::{BaseFile, Holdings};
use campaign::Campaign;
use changes::Changes;
use churn::Churn;
use judge::SPANS;
use load::Load;
use points::Points;
use report::Found;
use stage::{Stage, lane};
use told::Told;
use watch::Watch;

/// How the file of points is named to the base.
const POINTS: &str = "IPVISOR_FAULT_POINTS";
/// Spans in which silences are measured without kills: as long as those around kills.
const SPAN: Duration = Duration::from_millis(100);
/// Of these, as many as an upgrade takes.
const LONG: u32 = 3;
/// Upgrades after the kills.
const UPGRADES: usize = 20;
/// Kills between two looks at what base and holder have.
const LOOK: usize = 10;
/// Time between two lines that tell how far it is.
const TELL: Duration = Duration::from_secs(10);
/// A campaign that kills for less shows nothing.
const LEAST: Duration = Duration::from_secs(20);
/// Counters of the load's VMs and card that stay zero when buffers are always there.
const ZERO: [&str; 11] = [
    "drop.uplink_ring_full",
    "drop.uplink_send",
    "drop.uplink_down",
    "drop.rx_card_lost",
    "drop.host_send",
    "drop.rx_no_buffer",
    "drop.rx_port_down",
    "drop.rx_port_broken",
    "drop.neighbor_queue_full",
    "drop.neighbor_unreachable",
    "port_renegotiated",
];

fn main() -> ExitCode {
    let asked = asked().and_then(|asked| interrupt::watch().map(|()| asked));
    let judged = match asked {
        Ok(Asked { ports: Some(ports), slack, .. }) => crowd::measure(ports, slack),
        Ok(asked @ Asked { slack, .. }) => campaign(&asked).map(|found| {
            println!("{}", found.table(slack));
            (found.judge(slack), found.line(slack))
        }),
        Err(error) => Err(error),
    };
    match judged {
        Ok((wrong, line)) => {
            wrong.iter().for_each(|wrong| println!("wrong: {wrong}"));
            println!("{line}");
            if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            println!("survive: FAILED: {error:?}");
            ExitCode::FAILURE
        }
    }
}

/// What was typed.
struct Asked {
    time: Duration,
    seed: Option<u64>,
    ports: Option<usize>,
    driver: Option<String>,
    slack: u32,
    rings: Rings,
    workers: usize,
}

fn asked() -> Result<Asked> {
    let usage = || {
        let line = "usage: survive [--seconds N] [--seed 0xN] [--driver packet|xdp] \
                     [--rings split|packed] [--workers N] [--slack N] | survive --ports N [--slack N]";
        LabError::Unexpected(line.to_owned())
    };
    let (time, driver, rings) = (Duration::from_secs(90), scene::driver(), Rings::chosen());
    let workers = lab::instance::workers()?;
    let mut asked = Asked { time, seed: None, ports: None, driver, slack: 1, rings, workers };
    let mut words = std::env::args().skip(1);
    let mut of_a_campaign = false;
    while let Some(word) = words.next() {
        of_a_campaign |= !matches!(word.as_str(), "--ports" | "--slack");
        let value = words.next().ok_or_else(usage)?;
        let number = || value.parse::<u64>().map_err(|_| usage());
        match word.as_str() {
            "--seconds" => asked.time = Duration::from_secs(number()?),
            "--slack" => asked.slack = u32::try_from(number()?).map_err(|_| usage())?,
            "--rings" if value == "split" => asked.rings = Rings::Split,
            "--rings" if value == "packed" => asked.rings = Rings::Packed,
            "--driver" if ["packet", "xdp"].contains(&value.as_str()) => asked.driver = Some(value),
            "--workers" => asked.workers = number()? as usize,
            "--ports" => asked.ports = Some(number()? as usize),
            "--seed" => {
                let digits = u64::from_str_radix(value.trim_start_matches("0x"), 16);
                asked.seed = Some(digits.map_err(|_| usage())?);
            }
            _ => return Err(usage()),
        }
    }
    if asked.time < LEAST {
        let why = format!("a campaign takes {} seconds at least", LEAST.as_secs());
        return Err(LabError::Unexpected(why));
    }
    if asked.ports.is_some() && of_a_campaign {
        return Err(usage());
    }
    Ok(asked)
}

fn campaign(asked: &Asked) -> Result<Found> {
    let Asked { time, seed, slack, rings, .. } = *asked;
    if !rustix::process::geteuid().is_root() {
        let why = "network namespaces are made by root only: run it as root";
        return Err(LabError::Unexpected(why.to_owned()));
    }
    let start = Instant::now();
    let mut chance = seed.map_or_else(Chance::fresh, Chance::from_seed);
    let program = paths::ipvisor_with_faults()?;
    let _alone = paths::alone()?;
    let dir = tempfile::tempdir().attempt(|| "create a temporary directory".to_owned())?;
    let points = Points::create(dir.path().join("points"))?;
    let environment = vec![
        (POINTS, points.path().to_owned()),
        // A panic that looks up the names of all it was in takes a second.
        ("RUST_BACKTRACE", "0".into()),
    ];
    let (stage, ends) = Stage::set(&program, environment, asked)?;

    let (watch, churned) = (Arc::new(Watch::new(lane::COUNT)), Arc::new(AtomicU64::new(0)));
    let lanes = stage::lanes(Arc::clone(&churned));
    let load = Load::start(ends, lanes, Arc::clone(&watch), slack)?;
    let visits = Chance::from_seed(chance.number());
    let churn = Churn::start(stage.instance.socket("c"), rings, stage.base_mac, churned, visits)?;
    println!("{:.0} s: everything is set; now without kills", start.elapsed().as_secs_f64());
    sleep(Duration::from_secs(1));
    let (quiet, long_quiet) = quiet(&watch)?;

    let file = BaseFile::of(&stage.instance);
    let holder = holder(&stage.instance)?;
    let mut histories = [("base", Vec::new()), ("holder", Vec::new())];
    let alive = || !load.has_ended() && !churn.has_ended();
    let changes = Changes::new(&stage.instance)?;
    let reload = || changes.begin();
    let mut campaign =
        Campaign::new(&stage.instance, &watch, &points, rings, chance, &alive, &reload)?;
    campaign.ordered.workers = asked.workers;
    let (mut kills, mut told) = (0usize, Instant::now());
    let (mut wrong, mut log) = (Vec::new(), Told::of(&stage.instance));
    let ran = campaign.run(time, &mut |_| {
        kills += 1;
        if kills % LOOK == 1 {
            log.read()?;
            churn.held(|| {
                sleep(Duration::from_millis(30));
                histories[0].1.push(Holdings::of(file.process()?)?);
                histories[1].1.push(Holdings::of(holder)?);
                Ok::<_, LabError>(())
            })??;
        }
        if told.elapsed() >= TELL {
            told = Instant::now();
            println!("{:.0} s: {kills} kills", start.elapsed().as_secs_f64());
        }
        Ok(())
    });
    if let Err(error) = ran {
        wrong.push(format!("{error:?}"));
    }
    // The points are not passed any more, but by order.
    let upgrades = if wrong.is_empty() {
        (0..UPGRADES).map(|_| campaign.upgrade()).collect::<Result<Vec<_>>>()
    } else {
        Ok(Vec::new())
    };
    let upgrades = upgrades.unwrap_or_else(|error| {
        wrong.push(format!("{error:?}"));
        Vec::new()
    });
    let Campaign { kills, names, possible, missed, ordered, .. } = campaign;
    for point in missed {
        println!("nobody passed {} in time", names[point]);
    }
    let (met, cut) = churn.negotiations();
    println!("c has come {met} times; {cut} times it was cut off");
    if let Err(error) = churn.end() {
        wrong.push(format!("{error:?}"));
    }
    // With the load its front ends go, and that is told.
    let last = file.process()?;
    log.read()?;
    wrong.extend(log.judge(&ordered));
    let total = load.end()?;
    let counters = nonzero(&stage.instance)?;
    if file.process()? != last {
        wrong.push("a base died when nobody was killed any more".to_owned());
    }
    let passes = |(number, name): (usize, String)| Ok((name, points.passes(number)?));
    let points = names.into_iter().enumerate().map(passes).collect::<Result<_>>()?;
    let station_drops = stage.station.drops()?;
    stage.instance.down()?;
    Ok(Found {
        time,
        kills,
        upgrades,
        points,
        possible,
        total,
        quiet,
        long_quiet,
        histories,
        counters,
        station_drops,
        wrong,
    })
}

/// The longest silences of spans in which nobody is killed: of short ones, and of long ones.
fn quiet(watch: &Watch) -> Result<(Vec<Duration>, Vec<Duration>)> {
    let (mut short, mut long) = (Vec::new(), Vec::new());
    let longest = |from, until| watch.silences(&lane::STEADY, (from, until)).into_iter().max();
    while short.len() < SPANS {
        let begin = Instant::now();
        for _ in 0..LONG {
            interrupt::check()?;
            let begin = Instant::now();
            sleep(SPAN);
            short.extend(longest(begin, Instant::now()));
        }
        long.extend(longest(begin, Instant::now()));
    }
    Ok((short, long))
}

fn holder(instance: &Instance) -> Result<rustix::process::Pid> {
    let number = instance.holder_process()?;
    rustix::process::Pid::from_raw(number)
        .ok_or_else(|| LabError::Unexpected(format!("process {number} as holder")))
}

/// Counters of the load's own VMs and the card that are not zero and should be.
fn nonzero(instance: &Instance) -> Result<Vec<String>> {
    let counters = instance.counters()?;
    let mut found = Vec::new();
    let all = ["vm/a", "vm/b", "uplink/lan", "host/lan"].map(|owner| (owner, ZERO.as_slice()));
    // The VM that comes and goes drops what comes while it is away.
    let zero = all.into_iter().chain([("vm/c", ["port_renegotiated"].as_slice())]);
    for (owner, names) in zero {
        for name in names {
            match counters.get(owner, name) {
                0 => {}
                n => found.push(format!("counter {name} of {owner} is {n}")),
            }
        }
    }
    Ok(found)
}
