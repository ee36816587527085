//! Kicks, sleep, changes and moves in every order: a model of what a worker, a guest and whoever asks for
//! a change do, step by step, and all the states that it can come to.
//!
//! # Theory of operation
//! One port, two workers. Each step is what the code does without anybody in between: a store, a system
//! call, or what a lock keeps together. From the first state all steps that are possible are taken, and
//! from all states they lead to, until there are no new ones. Where nobody can take a step any more,
//! nothing may be left over: no datagram in the ring, no change that was asked for. And nobody serves a
//! port that is another worker's.
//!
//! What the code does for this is left out in turn, and each time the model finds what goes wrong.

use std::collections::HashSet;

/// Datagrams that the guest sends, and moves that are asked for.
const DATAGRAMS: u8 = 3;
const MOVES: u8 = 2;

/// What can be left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Without {
    Nothing,
    /// The look at the ring after the guest was asked to kick.
    SecondLook,
    /// The note to the new worker.
    Mail,
    /// The number of a visit.
    Visit,
}

/// Where a worker is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum At {
    /// In epoll, or just before it: with a port active it does not wait there.
    Epoll,
    /// Back from there: was it the port, was it the desk?
    Told { port: bool, desk: bool },
    /// Between its two turns: whether changes are to be looked for.
    Between { called: bool },
    /// In the turn in which it serves.
    Turn,
    /// In that turn, after it has served what there was: empty or not.
    Served { empty: bool },
    /// In that turn, after it has asked the guest to kick.
    Armed,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct State {
    /// The guest: still to be sent, in the ring, put there and not kicked for.
    to_send: u8,
    ring: u8,
    put: bool,
    /// What the ring says to the guest.
    kick_wanted: bool,
    /// The kick's eventfd was written to, ever: nobody reads it.
    kicked: bool,
    /// The port.
    owner: usize,
    active: bool,
    visit: u8,
    /// Whoever asks: moves still to be asked for, asked for, and not rung for.
    to_ask: u8,
    asked: u8,
    rings_for: bool,
    /// Each worker.
    at: [At; 2],
    /// The visit that it has in its list.
    list: [Option<u8>; 2],
    event: [bool; 2],
    mail: [bool; 2],
    wake: [bool; 2],
}

impl State {
    fn first() -> Self {
        Self {
            to_send: DATAGRAMS,
            ring: 0,
            put: false,
            kick_wanted: false,
            kicked: false,
            owner: 0,
            active: false,
            visit: 0,
            to_ask: MOVES,
            asked: 0,
            rings_for: false,
            at: [At::Epoll; 2],
            list: [None; 2],
            event: [false; 2],
            // The ring was just started.
            mail: [true, false],
            wake: [true, false],
        }
    }

    /// Whether a worker holds its side of the world.
    fn in_turn(&self, worker: usize) -> bool {
        matches!(self.at[worker], At::Turn | At::Served { .. } | At::Armed)
    }

    fn activate(&mut self, worker: usize) {
        if self.owner == worker && !self.active {
            self.active = true;
            self.visit += 1;
            self.kick_wanted = false;
            self.list[worker] = Some(self.visit);
        }
    }

    /// What a change does with a port that is moved.
    fn move_port(&mut self, without: Without) {
        let new = 1 - self.owner;
        self.event[self.owner] = false;
        self.active = false;
        if without != Without::Visit {
            self.visit += 1;
        }
        self.owner = new;
        // An eventfd that was written to makes an event where it is watched anew.
        self.event[new] = self.kicked;
        if without != Without::Mail {
            self.mail[new] = true;
            self.wake[new] = true;
        }
    }

    /// All states that one step leads to. `Err`: what is wrong with one of the steps.
    fn steps(&self, without: Without) -> Result<Vec<Self>, String> {
        let mut all = Vec::new();
        let mut step = |change: &dyn Fn(&mut Self)| {
            let mut next = self.clone();
            change(&mut next);
            all.push(next);
        };
        if self.put {
            step(&|s| {
                s.put = false;
                if s.kick_wanted {
                    s.kicked = true;
                    s.event[s.owner] = true;
                }
            });
        } else if self.to_send > 0 {
            step(&|s| (s.to_send, s.ring, s.put) = (s.to_send - 1, s.ring + 1, true));
        }
        if self.rings_for {
            step(&|s| (s.rings_for, s.wake[0]) = (false, true));
        } else if self.to_ask > 0 {
            step(&|s| (s.to_ask, s.asked, s.rings_for) = (s.to_ask - 1, s.asked + 1, true));
        }
        for w in 0..2 {
            match self.at[w] {
                At::Epoll => {
                    let (port, desk) = (self.event[w], self.wake[w]);
                    if port || desk || self.list[w].is_some() {
                        step(&|s| {
                            s.event[w] = false;
                            s.at[w] = At::Told { port, desk };
                        });
                    }
                }
                At::Told { port, desk } => step(&|s| {
                    if desk {
                        s.wake[w] = false;
                    }
                    let mail = desk && std::mem::take(&mut s.mail[w]);
                    if port || mail {
                        s.activate(w);
                    }
                    s.at[w] = At::Between { called: desk };
                }),
                // Only the first worker makes changes, while the other is in no turn.
                At::Between { called: true } if w == 0 && self.asked > 0 => {
                    if !self.in_turn(1) {
                        step(&|s| {
                            s.asked -= 1;
                            s.move_port(without);
                        });
                    }
                }
                At::Between { .. } => step(&|s| s.at[w] = At::Turn),
                At::Turn if self.list[w] == Some(self.visit) => {
                    if self.owner != w {
                        return Err(format!("worker {w} serves another's port: {self:?}"));
                    }
                    step(&|s| {
                        let empty = s.ring == 0;
                        s.ring = 0;
                        s.at[w] = At::Served { empty };
                    });
                }
                At::Turn => step(&|s| (s.list[w], s.at[w]) = (None, At::Epoll)),
                At::Served { empty } => {
                    step(&|s| s.at[w] = At::Epoll);
                    if empty {
                        step(&|s| (s.kick_wanted, s.at[w]) = (true, At::Armed));
                    }
                }
                At::Armed => step(&|s| {
                    if s.ring > 0 && without != Without::SecondLook {
                        s.kick_wanted = false;
                    } else {
                        s.active = false;
                        s.list[w] = None;
                    }
                    s.at[w] = At::Epoll;
                }),
            }
        }
        Ok(all)
    }

    /// Whether nobody waits for anything.
    fn is_settled(&self) -> bool {
        self.ring == 0 && self.to_send == 0 && self.asked == 0 && self.to_ask == 0
    }
}

/// Looks at all states; how many, or what is wrong with one.
fn explore(without: Without) -> Result<usize, String> {
    let mut seen = HashSet::from([State::first()]);
    let mut left = vec![State::first()];
    while let Some(state) = left.pop() {
        let steps = state.steps(without)?;
        if steps.is_empty() && !state.is_settled() {
            return Err(format!("everybody sleeps: {state:?}"));
        }
        left.extend(steps.into_iter().filter(|next| seen.insert(next.clone())));
    }
    Ok(seen.len())
}

#[test]
fn no_kick_and_no_change_is_lost_however_they_meet_a_move() {
    let states = explore(Without::Nothing).unwrap();
    assert!(states > 10_000, "{states} states");
}

#[test]
fn each_precaution_is_needed() {
    for (without, wrong) in [
        (Without::SecondLook, "everybody sleeps"),
        (Without::Mail, "everybody sleeps"),
        (Without::Visit, "serves another's port"),
    ] {
        let found = explore(without).unwrap_err();
        assert!(found.contains(wrong), "{without:?}: {found}");
    }
}
