//! How long a takeover takes with a thousand ports, what it holds, and how long `ps` takes.

use std::path::Path;
use std::time::{Duration, Instant};

use lab::crowd::Crowd;
use lab::error::{Attempt, LabError};
use lab::{Result, paths};
use rustix::process::Pid;

use crate::base::{Base, BaseFile, Holdings};
use crate::report::{ms, quantile};

/// Takeovers that are measured.
const TAKEOVERS: usize = 7;
/// The longest of them.
const TAKEOVER: Duration = Duration::from_millis(500);
/// The longest `ps`.
const PS: Duration = Duration::from_millis(100);

/// Measures with so many ports; what is not as it must be, and the last line. Times may be `slack`
/// times as long as they should be.
pub fn measure(ports: usize, slack: u32) -> Result<(Vec<String>, String)> {
    let _alone = paths::alone()?;
    let start = Instant::now();
    let mut crowd = Crowd::up(&paths::ipvisor_with_faults()?, ports)?;
    println!("{:.0} s: {ports} ports have their drivers", start.elapsed().as_secs_f64());
    crowd.everyone_talks()?;
    let file = BaseFile::of(&crowd.instance);
    let (mut gaps, mut used) = (Vec::new(), Vec::new());
    for _ in 0..TAKEOVERS {
        gaps.push(crowd.gap()?);
        used.extend(Base::now(&file)?.and_then(|base| base.used()).map(|(ran, _)| ran));
    }
    crowd.everyone_talks()?;
    let mut asked = Vec::new();
    for _ in 0..TAKEOVERS {
        let begin = Instant::now();
        crowd.instance.finish(&["ps"])?;
        asked.push(begin.elapsed());
    }
    for (name, process) in
        [("base", crowd.instance.base_process()?), ("holder", crowd.instance.holder_process()?)]
    {
        let pid = Pid::from_raw(process).ok_or_else(|| LabError::Unexpected(name.to_owned()))?;
        let Holdings { descriptors, threads, memory } = Holdings::of(pid)?;
        let (limit, memory) = (open_files(process)?, memory >> 10);
        println!(
            "{name}: {descriptors} descriptors (limit {limit}), {threads} threads, {memory} KiB of its own"
        );
    }
    crowd.instance.down()?;
    gaps.sort_unstable();
    asked.sort_unstable();
    used.sort_unstable();
    println!("a successor's threads run for {} ms until then (median)", ms(quantile(&used, 0.5)));
    let [gap, slowest] = [0.5, 1.0].map(|share| quantile(&gaps, share));
    let [ps, slowest_ps] = [0.5, 1.0].map(|share| quantile(&asked, share));
    let line = format!(
        "survive: {ports} ports, takeover {} ms, max {} ms, ps {} ms, max {} ms",
        ms(gap),
        ms(slowest),
        ms(ps),
        ms(slowest_ps)
    );
    let mut wrong = Vec::new();
    let mut judge = |what: &str, took: Duration, most: Duration| {
        let most = most.saturating_mul(slack);
        if took > most {
            wrong.push(format!("{what} took longer than {} ms", most.as_millis()));
        }
    };
    judge("a takeover", slowest, TAKEOVER);
    // The command's own start is in it, so the usual one counts.
    judge("`ps`", ps, PS);
    Ok((wrong, line))
}

/// How many files a process may have open.
fn open_files(process: i32) -> Result<String> {
    let path = Path::new("/proc").join(process.to_string()).join("limits");
    let text = std::fs::read_to_string(&path).attempt(|| format!("read {}", path.display()))?;
    let line = text.lines().find(|line| line.starts_with("Max open files"));
    Ok(line.and_then(|line| line.split_whitespace().nth(3)).unwrap_or("?").to_owned())
}
