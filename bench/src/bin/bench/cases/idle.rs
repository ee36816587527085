//! A thousand ports that say nothing: what they cost, and what they take from two that are busy.
//!
//! # Theory of operation
//! An instance with 1,002 external VMs, each with a front end attached, an IPv4 and an IPv6 address.
//! While nobody sends, what base and holder use of a core; then two of them send as much as goes, in
//! turns with the instance that has two ports only; then the memory of both bases is compared, each
//! with all its ports attached and two of them used.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use bench::frames::Kind;
use lab::crowd::{raise_limit, settings};
use lab::driver::DriverPort;
use lab::instance::processor_time;
use lab::{Result, interrupt};

use super::{memory, mpps};
use crate::contender::{MANY, Ours, Switch, Vm, ends, numbered};
use crate::generator::{Generator, Template};
use crate::race::{Lane, race};
use crate::results::Measured;
use crate::stage::{SETTLE, SHORT, Stage, attach, detach};

/// Where their IPv6 addresses lie.
const MANY6: &str = "2001:db8:2::/64";
/// Ports that say nothing.
const IDLE: u32 = 1000;
/// How long is watched what they cost, once for three rounds.
const WATCHED: Duration = Duration::from_secs(10);
const ROUNDS_EACH: usize = 3;
/// The instance with two ports only.
pub const ALONE: &str = "ipvisor, no idle ports";

fn idle(n: u32) -> Vm {
    let [.., high, low] = n.to_be_bytes().map(u16::from);
    let v6 = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 1, high << 8 | low);
    Vm { name: format!("v{n}"), mac: None, addresses: vec![numbered(n), v6.into()] }
}

/// Measures it.
pub fn run(stage: &mut Stage<'_>) -> Result<Vec<Measured>> {
    let Stage { ours: alone, effort, progress, .. } = stage;
    raise_limit(IDLE as usize)?;
    let begun = Instant::now();
    let mut vms = Vm::pair().to_vec();
    vms.extend((0..IDLE).map(idle));
    let mut ours = Ours::start(&[MANY, MANY6], &vms)?;
    let port = |vm: &Vm| DriverPort::connect(&ours.instance.socket(&vm.name), &settings());
    let ports: Vec<DriverPort> = vms[2..].iter().map(port).collect::<Result<_>>()?;
    progress.note(format!("{IDLE} idle ports: attached after {:.1?}", begun.elapsed()));
    let guests = [attach(&mut ours, &SHORT)?, attach(alone, &SHORT)?];
    let case = "1,000 idle ports";
    let mut shares = Vec::new();
    for round in 0..effort.rounds.div_ceil(ROUNDS_EACH) {
        progress.say(format!("{case}: round {}", round + 1));
        shares.push(share(&ours)?);
    }
    let mut measured = vec![Measured::new(case, ours.name(), "% of a core", shares)];
    let template = Template::new(Kind::Udp, ends(), SHORT.frame);
    let [a, b] = &guests;
    let mut lanes = vec![
        Lane::between(&ours, Generator::new(&a[0], &a[1], &template)),
        Lane::named(ALONE, &*alone, Generator::new(&b[0], &b[1], &template)),
    ];
    let case = "64 B among 1,000 idle ports";
    measured.extend(race(case, &mut lanes, *effort, "Mpps", mpps, progress)?);
    drop(lanes);
    ours.resume()?;
    alone.resume()?;
    let more = memory::of(&ours)?.all() - memory::of(alone)?.all();
    let each = vec![more / f64::from(IDLE)];
    measured.push(Measured::new("memory of an idle port", ours.name(), "KiB", each));
    drop(ports);
    detach(&[&ours, &*alone], guests)?;
    Ok(measured)
}

/// Of a core, in hundredths, what base and holder use for a while.
fn share(ours: &Ours) -> Result<f64> {
    ours.resume()?;
    std::thread::sleep(SETTLE);
    let processes = [ours.instance.base_process()?, ours.instance.holder_process()?];
    // The questions have an answer by then.
    std::thread::sleep(SETTLE);
    let used = || -> Result<Duration> { processes.iter().map(|p| processor_time(*p)).sum() };
    let (before, begun) = (used()?, Instant::now());
    while begun.elapsed() < WATCHED {
        interrupt::check()?;
        std::thread::sleep(SETTLE);
    }
    let (used, time) = (used()?.saturating_sub(before), begun.elapsed());
    ours.pause()?;
    Ok(100.0 * used.as_secs_f64() / time.as_secs_f64())
}
