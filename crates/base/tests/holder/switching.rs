//! Bases that switch to others of their kind, well or badly, and one that finds itself a holder.
//!
//! The words of a release are one word here: `first`, then `second`. The first asks for the second
//! as soon as it serves; what a base does is a matter of the play and of its release.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use base::entry::{Failure, Start};
use base::holder::channel;
use base::keeper::HolderEvent;
use datapath::keeper::Keeper;
use rustix::process::Signal;

use crate::actors::{TICK, die, memory_with, note, text_in};
use crate::world::program;

/// The layout of a state memory that nobody here has.
const LAYOUT: u32 = 4;
/// When the one that yields says that it came to rest.
const REST: u64 = 77;

pub async fn perform(play: &str, state: &Path, mut start: Start) -> Result<(), Failure> {
    let second = start.release.accepted == "second";
    if second {
        prepare(play, state, &mut start)?;
    }
    let hello = start.hello;
    let (generation, arrival, rest) = (hello.generation, hello.arrival, hello.rest_at);
    let kept = start.inheritance.take("kept").map(text_in).unwrap_or_default();
    let release = &start.release.accepted;
    let line = format!("{release} is base {generation} by {arrival:?}, rest {rest}, kept `{kept}`");
    note(state, &format!("{line}, after {:?}", hello.predecessor));
    if second && play == "switch-dies-after" {
        die(Signal::ABORT);
    }
    let text = if kept.is_empty() { "from the first".to_owned() } else { kept };
    start.keeper.keep("kept", memory_with(&text).as_fd())?;
    start.keeper.ready()?;
    note(state, &format!("{release} serves as {generation}"));
    match (play, second) {
        ("switch-crashes", true) => die(Signal::ABORT),
        ("switch-is-killed", true) if generation < 4 => die(Signal::KILL),
        ("heir", _) => {}
        (_, false) if generation == 0 => start.keeper.switch(LAYOUT, &["second".into()], None)?,
        _ => {}
    }
    serve(play, state, start).await
}

/// What a base does beside one that serves.
fn prepare(play: &str, state: &Path, start: &mut Start) -> Result<(), Failure> {
    match play {
        "switch-cannot" => return Err(Failure::failed("this one does not like the weather")),
        "switch-dies-before" => die(Signal::KILL),
        "switch-hangs" => std::thread::sleep(Duration::from_secs(60)),
        _ => {}
    }
    let layouts = if play == "switch-reads-others" { 5..=6 } else { 3..=LAYOUT };
    start.take_over(layouts)?;
    note(state, "has everything");
    Ok(())
}

async fn serve(play: &str, state: &Path, mut start: Start) -> Result<(), Failure> {
    let mut beat = tokio::time::interval(TICK);
    let mut way = None;
    loop {
        tokio::select! {
            _ = beat.tick() => start.keeper.beat()?,
            event = start.link.next() => match event {
                HolderEvent::Stop { now } => {
                    note(state, &format!("stop now={now}"));
                    return Ok(());
                }
                HolderEvent::Yield if play == "switch-dies-yielding" => die(Signal::KILL),
                HolderEvent::Yield => {
                    start.keeper.keep("kept", memory_with("last words").as_fd())?;
                    note(state, "rests");
                    start.keeper.yielded(REST)?;
                    return Ok(());
                }
                HolderEvent::NotSwitched(why) => note(state, &format!("not switched: {why}")),
                HolderEvent::Gone => {
                    note(state, "holder gone");
                    let (ours, theirs) = channel::pair()?;
                    let mut command = program("heir", play, state).command();
                    // Who read its messages is gone.
                    command.stdin(Stdio::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
                    command.spawn()?;
                    way = Some(ours.try_clone()?);
                    start.link.move_to(ours)?;
                }
                HolderEvent::Heir(pid) => {
                    // What the first holder was told to start.
                    let this = File::open(program("base", play, state).path)?;
                    let (generation, seconds) = (start.hello.generation + 1, 1000);
                    let words = [start.release.accepted.clone().into()];
                    start.keeper.move_to(way.take().unwrap(), &this, generation, seconds, &words)?;
                    note(state, &format!("heir {pid}"));
                    start.keeper.switch(LAYOUT, &["second".into()], None)?;
                }
                other => note(state, &format!("heard {other:?}")),
            },
        }
    }
}
