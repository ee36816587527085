//! Long random lives of a ring, next to a model that is a few queues of frames.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::Delivered;
use crate::driver::Shape;

/// Pieces, and whether the later ones lie in a table.
type Cut = (Vec<usize>, Option<usize>);

fn cut() -> impl Strategy<Value = Cut> {
    let cuts = prop::collection::vec(prop_oneof![0_usize..20, 0_usize..300], 0..6);
    (cuts, prop::option::of(0_usize..4))
}

fn any_features() -> impl Strategy<Value = QueueFeatures> {
    any::<[bool; 4]>().prop_map(|[event_idx, indirect, mergeable, full]| {
        let header_len = if full || mergeable { HeaderLen::Full } else { HeaderLen::Short };
        QueueFeatures { event_idx, indirect, header_len, mergeable, ..PLAIN }
    })
}

fn shape<'a>(cut: &'a Cut, features: QueueFeatures) -> Shape<'a> {
    Shape { cuts: &cut.0, table: cut.1.filter(|_| features.indirect) }
}

#[derive(Clone, Debug)]
enum Output {
    Send(usize, Cut),
    Expose,
    Take(usize),
    Complete,
    Reclaim,
    Arm,
    Disarm,
    ArmDriver,
    Resume,
}

fn output() -> impl Strategy<Value = Output> {
    prop_oneof![
        8 => (0_usize..1500, cut()).prop_map(|(len, cut)| Output::Send(len, cut)),
        3 => Just(Output::Expose),
        4 => (1_usize..8).prop_map(Output::Take),
        3 => Just(Output::Complete),
        3 => Just(Output::Reclaim),
        2 => Just(Output::Arm),
        1 => Just(Output::Disarm),
        1 => Just(Output::ArmDriver),
        1 => Just(Output::Resume),
    ]
}

#[derive(Clone, Debug)]
enum Input {
    Post(usize, Cut),
    Expose,
    Deliver(usize, usize),
    Publish,
    Receive,
    Resume,
}

fn input() -> impl Strategy<Value = Input> {
    prop_oneof![
        8 => (0_usize..800, cut()).prop_map(|(len, cut)| Input::Post(len, cut)),
        3 => Just(Input::Expose),
        6 => (0_usize..1600, 0_usize..40).prop_map(|(len, cut)| Input::Deliver(len, cut)),
        3 => Just(Input::Publish),
        3 => Just(Input::Receive),
        1 => Just(Input::Resume),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn an_output_queue_takes_what_was_sent_once_and_in_order(
        size in prop::sample::select(&SIZES[..]),
        start in any::<u16>(),
        features in any_features(),
        life in prop::collection::vec(output(), 1..150),
    ) {
        let mut driver = DriverTx::over(ring_at(size, features, start), 1600);
        let mut device = resume_tx(&driver.queue);
        let (mut hidden, mut visible) = (VecDeque::new(), VecDeque::new());
        let (mut taken, mut completed) = (VecDeque::new(), 0);
        // Who sleeps must be woken by the next thing that happens for him.
        let (mut device_sleeps, mut driver_sleeps) = (false, false);
        let mut room = vec![0; 1500];
        for (i, step) in life.into_iter().enumerate() {
            match step {
                Output::Send(len, cut) => {
                    let sent = frame(i, len);
                    if driver.send(&HEADER, &sent, shape(&cut, features)).is_some() {
                        hidden.push_back(sent);
                    }
                }
                Output::Expose => {
                    let kick = driver.queue.expose();
                    prop_assert!(kick || !device_sleeps || hidden.is_empty());
                    device_sleeps &= !kick;
                    visible.append(&mut hidden);
                }
                Output::Take(n) => for _ in 0..n {
                    let got = device.copy_next(&mut room).unwrap();
                    let Some(sent) = visible.pop_front() else {
                        prop_assert_eq!(got, None);
                        break;
                    };
                    let got = got.unwrap();
                    prop_assert_eq!(got.header, HEADER);
                    prop_assert_eq!(&room[..got.len], &sent[..]);
                    taken.push_back(sent);
                },
                Output::Complete => {
                    prop_assert_eq!(usize::from(device.outstanding()), taken.len());
                    let notify = device.complete().unwrap();
                    prop_assert!(notify || !driver_sleeps || taken.is_empty());
                    prop_assert!(!notify || !taken.is_empty());
                    driver_sleeps &= !notify;
                    completed += taken.len();
                    taken.clear();
                }
                Output::Reclaim => {
                    prop_assert_eq!(driver.reclaim(), completed);
                    completed = 0;
                }
                Output::Arm => {
                    let more = device.arm().unwrap();
                    prop_assert_eq!(more, !visible.is_empty());
                    device_sleeps = !more;
                }
                Output::Disarm => {
                    device.disarm();
                    device_sleeps = false;
                }
                Output::ArmDriver => {
                    let more = driver.queue.arm();
                    prop_assert_eq!(more, completed > 0);
                    driver_sleeps = !more;
                }
                Output::Resume => {
                    device = resume_tx(&driver.queue);
                    device_sleeps = false;
                    taken.append(&mut visible);
                    visible = std::mem::take(&mut taken);
                }
            }
            prop_assert_eq!(usize::from(device.available().unwrap()), visible.len());
        }
    }

    #[test]
    fn an_input_queue_delivers_whole_frames_into_the_oldest_buffers(
        size in prop::sample::select(&SIZES[..]),
        start in any::<u16>(),
        features in any_features(),
        life in prop::collection::vec(input(), 1..150),
    ) {
        let mut driver = DriverRx::over(ring_at(size, features, start), 1600);
        let mut device = resume_rx(&driver.queue);
        let header_len = features.header_octets();
        // Room of the buffers, and frames with the room of the buffers they took.
        let (mut hidden, mut visible) = (VecDeque::new(), VecDeque::new());
        let (mut written, mut published) = (VecDeque::new(), VecDeque::new());
        let mut got = Vec::new();
        for (i, step) in life.into_iter().enumerate() {
            match step {
                Input::Post(len, cut) => {
                    // A mergeable buffer holds at least a header (virtio 1.2, 5.1.6.3.1).
                    let len = if features.mergeable { len.max(NetHeader::LEN) } else { len };
                    if driver.post(len, shape(&cut, features)).is_some() {
                        hidden.push_back(len);
                    }
                }
                Input::Expose => {
                    driver.queue.expose();
                    visible.append(&mut hidden);
                }
                Input::Deliver(len, cut) => {
                    let sent = frame(i, len);
                    let (one, two) = sent.split_at(cut.min(len));
                    let total = len + header_len;
                    let needed = if features.mergeable {
                        (1..=visible.len())
                            .find(|&n| visible.iter().take(n).sum::<usize>() >= total)
                            .ok_or(Delivered::NoBuffer)
                    } else {
                        match visible.front() {
                            None => Err(Delivered::NoBuffer),
                            Some(&room) if room < total => Err(Delivered::TooSmall),
                            Some(_) => Ok(1),
                        }
                    };
                    let fate = device.deliver(&HEADER, &[one, &[], two]).unwrap();
                    match needed {
                        Err(expected) => prop_assert_eq!(fate, expected),
                        Ok(n) => {
                            prop_assert_eq!(fate, Delivered::Written);
                            let rooms: Vec<usize> = visible.drain(..n).collect();
                            written.push_back((sent, rooms));
                        }
                    }
                }
                Input::Publish => {
                    let notify = device.publish().unwrap();
                    prop_assert!(!notify || !written.is_empty());
                    published.append(&mut written);
                }
                Input::Receive => {
                    let header = driver.receive(&mut got);
                    let Some((sent, rooms)) = published.pop_front() else {
                        prop_assert_eq!(header, None);
                        continue;
                    };
                    let full = header_len == NetHeader::LEN;
                    let num_buffers = if full { rooms.len() as u16 } else { 0 };
                    prop_assert_eq!(header, Some(NetHeader { num_buffers, ..HEADER }));
                    prop_assert_eq!(&got, &sent);
                }
                Input::Resume => {
                    device = resume_rx(&driver.queue);
                    let mut rooms: VecDeque<usize> =
                        written.drain(..).flat_map(|(_, rooms)| rooms).collect();
                    rooms.append(&mut visible);
                    visible = rooms;
                }
            }
            prop_assert_eq!(usize::from(device.available().unwrap()), visible.len());
        }
    }
}
