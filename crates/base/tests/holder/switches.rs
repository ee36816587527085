//! What the holder promises about planned switches, and about its own death.

use rustix::process::Signal;

use crate::world::{World, kill, lives, pid, wait_until_gone};

#[test]
fn a_base_yields_to_one_that_is_prepared_and_all_it_kept_is_handed_over() {
    let mut world = World::start("switch");
    world.wait_for("first serves as 0");
    world.wait_for("second serves as 1");
    let trace = world.trace();
    let order = [
        "first serves as 0",
        "rests",
        "has everything",
        "second is base 1 by Switch, rest 77, kept `last words`, after None",
    ];
    let places: Vec<_> = order.map(|line| trace.lines().position(|l| l == line)).to_vec();
    assert!(places.is_sorted() && places[0].is_some(), "{trace}");
    // It is the release that is started again from here on.
    kill(world.base(), Signal::KILL);
    world.wait_for("second is base 2 by Death, rest 0, kept `last words`, after Some(Ended(Sig");
    world.end_in_order();
}

#[test]
fn a_base_goes_on_when_the_next_cannot_take_over_and_is_told_why() {
    for (play, why) in [
        ("switch-cannot", "this one does not like the weather"),
        ("switch-dies-before", "it was killed by signal 9 before it was ready to take over"),
        ("switch-hangs", "it did not get ready, and was killed"),
        ("switch-reads-others", "it reads the layouts 5 to 6 of the state memory, and"),
    ] {
        let mut world = World::start(play);
        world.wait_for("first serves as 0");
        let base = world.base();
        let told = world.wait_for("not switched:");
        assert!(told.starts_with(why), "{play}: {told}");
        assert!(lives(base) && world.base() == base, "{play}");
        kill(base, Signal::KILL);
        world.wait_for("first serves as 1");
        world.end_in_order();
    }
}

#[test]
fn a_release_that_dies_before_it_serves_is_followed_by_the_last_good_one() {
    let mut world = World::start("switch-dies-after");
    let after = "kept `last words`, after Some(Ended(Signaled(6)))";
    world.wait_for(&format!("first is base 2 by Back, rest 0, {after}"));
    world.wait_for("first serves as 2");
    world.end_in_order();
}

#[test]
fn a_release_that_crashes_twice_soon_after_is_rolled_back() {
    let mut world = World::start("switch-crashes");
    world.wait_for("second serves as 1");
    world.wait_for("second serves as 2");
    world.wait_for("first is base 3 by Back");
    world.wait_for("first serves as 3");
    let said = world.end_in_order();
    assert!(said.contains("the last good release is started at once"), "{said}");
}

#[test]
fn kills_from_outside_roll_nothing_back() {
    let mut world = World::start("switch-is-killed");
    world.wait_for("second serves as 4");
    assert!(!world.trace().contains("by Back"), "{}", world.trace());
    world.end_in_order();
}

#[test]
fn a_base_that_dies_while_it_yields_is_followed_by_the_one_that_is_prepared() {
    let mut world = World::start("switch-dies-yielding");
    world.wait_for(
        "second is base 1 by Switch, rest 0, kept `from the first`, after Some(Ended(Signaled(9)))",
    );
    world.wait_for("second serves as 1");
    world.end_in_order();
}

#[test]
fn a_base_whose_holder_was_killed_finds_itself_another_and_is_taken_over_as_before() {
    let mut world = World::start("heir");
    world.wait_for("first serves as 0");
    let first = world.base();
    world.kill_holder();
    world.wait_for("holder gone");
    let heir = pid(&world.wait_for("heir"));
    world.wait_for("second is base 1 by Switch, rest 77, kept `last words`, after None");
    world.wait_for("second serves as 1");
    wait_until_gone(first);
    kill(world.base(), Signal::KILL);
    world.wait_for("second is base 2 by Death, rest 0, kept `last words`");
    world.wait_for("second serves as 2");
    let second = world.second().unwrap_err().to_string();
    assert!(second.contains(&format!("(process {heir})")), "{second}");
    kill(heir, Signal::TERM);
    world.wait_for("stop now=false");
    wait_until_gone(heir);
    assert!(!world.state().exists(), "the directory goes although its maker died");
}
