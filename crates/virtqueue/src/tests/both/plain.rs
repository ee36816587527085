//! The straight way of common frames, beside the general one.

use super::*;
use crate::Delivered;
use crate::driver::Shape;

const NOTHING: NetHeader = NetHeader {
    flags: 0,
    gso_type: 0,
    hdr_len: 0,
    gso_size: 0,
    csum_start: 0,
    csum_offset: 0,
    num_buffers: 0,
};

#[test]
fn a_stretch_ends_where_the_room_ends_or_nothing_more_was_foreseen() {
    for (rooms, foreseen, copied) in [(4, 6, 4), (6, 6, 6), (8, 6, 6), (8, 3, 3)] {
        let (mut driver, mut device) = tx(16, RICH);
        for n in 0..6 {
            driver.send(&HEADER, &frame(n, 60 + n), Shape::default()).unwrap();
        }
        driver.queue.expose();
        assert_eq!(device.foresee(foreseen), Ok(foreseen));
        let mut octets = vec![[0; 100]; rooms];
        let mut rooms: Vec<&mut [u8]> = octets.iter_mut().map(|room| &mut room[..]).collect();
        let mut slots = Rooms { rooms: &mut rooms, filled: vec![] };
        device.copy_stretch(26, &mut slots);
        assert_eq!(slots.filled, (0..copied).map(|n| 72 + n).collect::<Vec<_>>());
        assert_eq!(device.outstanding(), copied as u16);
        for (n, octets) in octets.iter().take(copied).enumerate() {
            assert_eq!(octets[12..72 + n], frame(n, 60 + n));
        }
    }
}

#[test]
fn a_stretch_goes_into_as_many_buffers_as_were_foreseen_and_each_is_marked_before() {
    for (frames, foreseen, delivered) in [(3, 5, 3), (5, 5, 5), (5, 2, 2)] {
        let (mut driver, mut device) = rx(16, RICH);
        for _ in 0..5 {
            driver.post(200, Shape::default()).unwrap();
        }
        driver.queue.expose();
        device.foresee_chains(foreseen).unwrap();
        device.foresee_buffers(foreseen);
        let (marked, bodies) = (std::cell::Cell::new(0), (0..frames).map(|n| frame(n, 40 + n)));
        let bodies: Vec<_> = bodies.collect();
        let mut headers = [0; 26];
        headers[10] = 1;
        let stretch = bodies.iter().map(|body| (&headers, &body[..]));
        let mark = |at: u16| assert_eq!(marked.replace(at + 1), at);
        let octets = bodies.iter().take(delivered).map(Vec::len).sum();
        assert_eq!(device.deliver_stretch(stretch, mark), (delivered as u16, octets));
        assert_eq!(marked.get(), delivered as u16);
        device.publish().unwrap();
        for body in &bodies[..delivered] {
            let mut arrived = Vec::new();
            driver.receive(&mut arrived).unwrap();
            assert_eq!(arrived[14..], body[..]);
        }
    }
}

/// Where a shape's first pieces end, and whether the rest lies in a table.
fn shape(cuts: &[usize], table: bool) -> Shape<'_> {
    Shape { cuts, table: table.then_some(0) }
}

#[test]
fn common_frames_are_copied_behind_their_headers_up_to_the_first_of_another_kind() {
    for (odd, cuts, table) in [
        ("three pieces", &[12, 20][..], false),
        ("a header in two pieces", &[10][..], false),
        ("a table", &[12][..], true),
    ] {
        let (mut driver, mut device) = tx(16, RICH);
        for n in 0..6 {
            let cuts = if n == 4 { cuts } else { [&[][..], &[12]][n % 2] };
            driver.send(&HEADER, &frame(n, 60 + n), shape(cuts, n == 4 && table)).unwrap();
        }
        driver.queue.expose();
        assert_eq!(device.foresee(5), Ok(5));
        let mut room = [0; 100];
        for n in 0..4 {
            let len = copy_one(&mut device, &mut room, 26).unwrap();
            assert_eq!(len, 72 + n);
            assert_eq!(room[..12], HEADER.to_bytes());
            assert_eq!(room[12..len], frame(n, 60 + n));
        }
        assert_eq!(copy_one(&mut device, &mut room, 26), None, "{odd}");
        assert_eq!(device.whole(), Ok(()));
        assert_eq!(device.copy_next(&mut room).unwrap().unwrap().len, 64, "{odd}");
        assert_eq!(room[..64], frame(4, 64));
        assert_eq!(copy_one(&mut device, &mut room, 26), Some(77), "{odd}");
        assert_eq!(copy_one(&mut device, &mut room, 26), None);
        assert_eq!(device.outstanding(), 6);
        device.complete().unwrap();
        assert_eq!(driver.reclaim(), 6);
    }
}

#[test]
fn a_frame_that_is_too_short_or_too_long_is_left_to_the_general_way() {
    let (mut driver, mut device) = tx(16, PLAIN);
    driver.send(&NOTHING, &frame(0, 60), Shape::default()).unwrap();
    driver.queue.expose();
    assert_eq!(device.foresee(1), Ok(1));
    assert_eq!(copy_one(&mut device, &mut [0; 71], 26), None);
    assert_eq!(copy_one(&mut device, &mut [0; 72], 73), None);
    assert_eq!(copy_one(&mut device, &mut [0; 72], 72), Some(72));
}

#[test]
fn frames_with_a_short_header_are_left_to_the_general_way() {
    let features = QueueFeatures { header_len: HeaderLen::Short, ..PLAIN };
    let (mut driver, mut device) = tx(16, features);
    driver.send(&NOTHING, &frame(0, 60), Shape::default()).unwrap();
    driver.queue.expose();
    assert_eq!(device.foresee(1), Ok(1));
    assert_eq!(copy_one(&mut device, &mut [0; 100], 26), None);
    let (mut driver, mut device) = rx(16, features);
    driver.fill(100);
    driver.queue.expose();
    device.foresee_chains(1).unwrap();
    device.foresee_buffers(1);
    assert!(!deliver_one(&mut device, &[0; 26], &[]));
    assert_eq!(device.deliver_whole(&[1; 72]), Ok(Delivered::Written));
    device.publish().unwrap();
    let mut arrived = Vec::new();
    driver.receive(&mut arrived).unwrap();
    assert_eq!(arrived, [1; 60]);
}

#[test]
fn a_common_frame_goes_into_one_buffer_and_where_it_does_not_fit_nothing_is_done() {
    let (mut driver, mut device) = rx(16, RICH);
    let mut headers = [7; 26];
    headers[..12].copy_from_slice(&NetHeader { num_buffers: 1, ..NOTHING }.to_bytes());
    let body = frame(1, 50);
    // Nothing was foreseen, so nothing is known of any buffer.
    driver.post(76, Shape::default()).unwrap();
    driver.queue.expose();
    assert!(!deliver_one(&mut device, &headers, &body));
    device.foresee_chains(4).unwrap();
    device.foresee_buffers(4);
    assert!(deliver_one(&mut device, &headers, &body));
    assert_eq!(device.outstanding(), 1);
    // A chain, a table, a buffer that is one octet too small.
    for (cuts, table, len) in
        [(&[40][..], false, 200), (&[40][..], true, 200), (&[][..], false, 75)]
    {
        driver.post(len, shape(cuts, table)).unwrap();
        driver.queue.expose();
        device.foresee_chains(1).unwrap();
        device.foresee_buffers(1);
        let before = device.position();
        assert!(!deliver_one(&mut device, &headers, &body));
        assert_eq!(device.position(), before);
        assert!(device.skip_next().unwrap());
    }
    device.publish().unwrap();
    let mut arrived = Vec::new();
    let header = driver.receive(&mut arrived).unwrap();
    assert_eq!(header, NetHeader { num_buffers: 1, ..NOTHING });
    assert_eq!(arrived[..14], [7; 14]);
    assert_eq!(arrived[14..], body);
}
