//! A device that dies between any two stores of a publication, and its successor.
//!
//! # The model
//! Every death is played: before the first store, between any two, after the last one. Before every
//! store the driver looks, in one of three ways (not at all; taking back what it sees; taking back and
//! making as much available again), and every sequence of three such looks is played, again and again
//! to the end. Then the successor comes, and the test is the judge:
//!
//! - each buffer comes back once, in order, with what was to be said of it (the driver here panics
//!   otherwise), and none is lost;
//! - what the driver had been shown is never taken or written again;
//! - of what it had not been shown, all is taken again or all is published: a frame of several buffers
//!   never comes in half.
//!
//! The stores are those of the ring itself, the successor is the ring's own way to start. A successor
//! that dies while it completes is played, too.

use std::cell::RefCell;
use std::rc::Rc;

use super::*;
use crate::Delivered;
use crate::driver::Shape;
use crate::packed::dying;

/// What the driver does each time it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Driver {
    Sleeps,
    Takes,
    OffersAgain,
}

/// What it does the first, the second, the third time; and from the beginning.
type Script = [Driver; 3];

/// All of them.
fn scripts() -> impl Iterator<Item = Script> {
    const ALL: Script = [Driver::Sleeps, Driver::Takes, Driver::OffersAgain];
    (0..27).map(|n| [ALL[n % 3], ALL[n / 3 % 3], ALL[n / 9]])
}

/// A ring in a memory that is soon made: there are many.
fn small(size: u16, features: QueueFeatures, start: u16) -> PackedQueue {
    let memory = DriverMemory::new(&[(0x1000, 0x1_0000)]).unwrap();
    PackedQueue::new(memory, size, features, start)
}

/// How chains are cut, and whether the later pieces lie in a table.
const SHAPES: [(&[usize], Option<usize>); 4] =
    [(&[], None), (&[12], None), (&[5, 20], None), (&[12], Some(0))];
/// The shape of the first buffer if each has another; or all are one descriptor.
const ALL_SINGLE: usize = SHAPES.len();

/// The shape of the `n`th buffer.
fn shape_of(n: usize, shape: usize) -> Shape<'static> {
    let (cuts, table) = if shape == ALL_SINGLE { SHAPES[0] } else { SHAPES[(shape + n) % 4] };
    Shape { cuts, table }
}

/// More than any publication here has.
const ENOUGH: usize = 64;
/// Stores that the first successor makes before it dies in its turn.
const SUCCESSORS: [usize; 3] = [0, 1, ENOUGH];

/// A driver's output queue that numbers its frames and counts what comes back.
struct Sender {
    tx: DriverTx,
    sent: usize,
    back: usize,
}

impl Sender {
    fn send(&mut self, shape: usize) -> bool {
        let shape = shape_of(self.sent, shape);
        let sent = self.tx.send(&HEADER, &frame(self.sent, 40), shape).is_some();
        self.sent += usize::from(sent);
        sent
    }

    fn look(&mut self, how: Driver, shape: usize) {
        if how == Driver::Sleeps {
            return;
        }
        let n = self.tx.reclaim();
        self.back += n;
        if how == Driver::OffersAgain {
            for _ in 0..n {
                self.send(shape);
            }
            self.tx.queue.expose();
        }
    }
}

/// Takes up to `most` frames; their numbers.
fn take(device: &mut TxQueue, from: usize, most: usize) -> Vec<usize> {
    let mut room = [0; 100];
    let mut taken = Vec::new();
    while taken.len() < most
        && let Some(got) = device.copy_next(&mut room).unwrap()
    {
        let number = from + taken.len();
        assert_eq!(room[..got.len], frame(number, 40), "frame {number}");
        taken.push(number);
    }
    taken
}

#[test]
fn an_output_queue_loses_nothing_and_repeats_a_batch_at_most_wherever_its_device_dies() {
    let (mut deaths, mut second) = (0, 0);
    for size in [3, 8] {
        for start in [0x8000 | (size - 1), size - 2] {
            for (shape, script, batch) in triples(&[1, 2, 3]) {
                for (lives, again) in lives() {
                    let tx = DriverTx::over(small(size, RICH, start), 0x100);
                    let sender = Rc::new(RefCell::new(Sender { tx, sent: 0, back: 0 }));
                    let look = || {
                        let (sender, mut script) = (sender.clone(), script.into_iter().cycle());
                        move || {
                            let how = script.next().unwrap();
                            sender.borrow_mut().look(how, shape);
                        }
                    };
                    let resume = || resume_tx(&sender.borrow().tx.queue);
                    let mut device = resume();
                    while sender.borrow_mut().send(shape) {}
                    sender.borrow_mut().tx.queue.expose();
                    // Two batches: before the second, the journal has spoken.
                    let first = take(&mut device, 0, batch).len();
                    device.complete().unwrap();
                    look()();
                    let taken = take(&mut device, first, batch).len();
                    deaths += usize::from(dying(lives, look(), move || {
                        device.complete().unwrap();
                    }));
                    let died = dying(again, look(), {
                        let queue = &sender.borrow().tx.queue;
                        let (memory, layout) = (queue.memory().share(), queue.layout());
                        let journal = queue.journal();
                        move || {
                            TxQueue::resume_packed(memory, layout, RICH, journal)
                                .map(drop)
                                .unwrap();
                        }
                    });
                    second += usize::from(died);
                    let mut device = resume();
                    let next = usize::from(device.next_index());
                    assert!(next == first || next == first + taken, "half a batch: {next}");
                    let shown = usize::from(sender.borrow().tx.queue.pending());
                    assert_eq!(shown + sender.borrow().back, next);
                    // All that is not back is there still, in order, and comes back.
                    let rest = take(&mut device, next, ENOUGH);
                    device.complete().unwrap();
                    sender.borrow_mut().look(Driver::Takes, shape);
                    let sender = sender.borrow();
                    assert_eq!((sender.back, next + rest.len()), (sender.sent, sender.sent));
                }
            }
        }
    }
    assert!(deaths > 1000 && second > 100, "{deaths} deaths, {second} of successors");
}

/// How many stores a device makes, and how many its successor.
fn lives() -> impl Iterator<Item = (usize, usize)> {
    (0..8).flat_map(|lives| SUCCESSORS.map(|again| (lives, again)))
}

/// All shapes to begin with, scripts and sizes of batches or frames.
fn triples(sizes: &[usize]) -> impl Iterator<Item = (usize, Script, usize)> {
    let pairs = |shape| scripts().map(move |script| (shape, script));
    (0..=ALL_SINGLE)
        .flat_map(pairs)
        .flat_map(|(shape, script)| sizes.iter().map(move |size| (shape, script, *size)))
}

/// A driver's input queue that checks what it receives against the numbers of the frames.
struct Receiver {
    rx: DriverRx,
    posted: usize,
    received: Vec<usize>,
    /// Octets of the frame of each number.
    lens: Vec<usize>,
}

impl Receiver {
    fn post(&mut self, shape: usize) -> bool {
        let posted = self.rx.post(60, shape_of(self.posted, shape)).is_some();
        self.posted += usize::from(posted);
        posted
    }

    fn look(&mut self, how: Driver, shape: usize) {
        if how == Driver::Sleeps {
            return;
        }
        let mut got = Vec::new();
        while self.rx.receive(&mut got).is_some() {
            let number = got[0] as usize;
            assert_eq!(got[1..], frame(number, self.lens[number])[1..], "frame {number}");
            self.received.push(number);
        }
        if how == Driver::OffersAgain {
            while self.post(shape) {}
            self.rx.queue.expose();
        }
    }
}

/// Frame `number`, which begins with its number.
fn numbered(number: usize, len: usize) -> Vec<u8> {
    let mut octets = frame(number, len);
    octets[0] = number as u8;
    octets
}

#[test]
fn an_input_queue_never_shows_half_a_frame_or_writes_what_was_given_back() {
    let features = QueueFeatures { mergeable: true, ..RICH };
    let (mut deaths, mut second, mut between) = (0, 0, 0);
    for size in [8, 13] {
        for start in [0x8000 | (size - 1), size - 2] {
            // Of one buffer, two and three.
            for (shape, script, many) in triples(&[20, 60, 130]) {
                for (lives, again) in lives() {
                    let lens = vec![many, 20, many, 30, many, 25];
                    let rx = DriverRx::over(small(size, features, start), 0x100);
                    let receiver = Receiver { rx, posted: 0, received: Vec::new(), lens };
                    let receiver = Rc::new(RefCell::new(receiver));
                    let look = || {
                        let (receiver, mut script) = (receiver.clone(), script.into_iter().cycle());
                        move || {
                            let how = script.next().unwrap();
                            receiver.borrow_mut().look(how, shape);
                        }
                    };
                    let resume = || resume_rx(&receiver.borrow().rx.queue);
                    let put = |device: &mut RxQueue, number: usize| {
                        let len = receiver.borrow().lens[number];
                        let sent = numbered(number, len);
                        device.deliver(&HEADER, &[&sent]).unwrap() == Delivered::Written
                    };
                    let mut device = resume();
                    while receiver.borrow_mut().post(shape) {}
                    receiver.borrow_mut().rx.queue.expose();
                    // One frame that is published, then a batch of three.
                    if !put(&mut device, 0) {
                        break;
                    }
                    device.publish().unwrap();
                    look()();
                    let written = (1..4).take_while(|n| put(&mut device, *n)).count();
                    let died = dying(lives, look(), move || {
                        device.publish().unwrap();
                    });
                    deaths += usize::from(died);
                    let died_again = dying(again, look(), {
                        let queue = &receiver.borrow().rx.queue;
                        let (memory, layout) = (queue.memory().share(), queue.layout());
                        let journal = queue.journal();
                        move || {
                            RxQueue::resume_packed(memory, layout, features, journal)
                                .map(drop)
                                .unwrap();
                        }
                    });
                    second += usize::from(died_again);
                    // The successor writes other frames before the driver looks again: what was given
                    // back must not be among the buffers that it writes into.
                    let mut device = resume();
                    let more: Vec<usize> = (4..6).take_while(|n| put(&mut device, *n)).collect();
                    device.publish().unwrap();
                    receiver.borrow_mut().look(Driver::Takes, shape);
                    let received = receiver.borrow().received.clone();
                    let shown = received.len() - more.len();
                    assert!((1..=1 + written).contains(&shown), "{shown} of {written}");
                    assert!(died || shown == 1 + written, "nobody died, and a frame is lost");
                    between += usize::from((2..1 + written).contains(&shown));
                    let expected: Vec<usize> = (0..shown).chain(more).collect();
                    assert_eq!(received, expected, "once, and in order");
                }
            }
        }
    }
    assert!(deaths > 500 && second > 20, "{deaths} deaths, {second} of successors");
    assert!(between > 500, "{between} deaths between two frames");
}
