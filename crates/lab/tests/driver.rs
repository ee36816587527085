//! The lab's own driver against a back end nobody here wrote: DPDK's.

use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::driver::{DriverPort, Settings, features};
use lab::testpmd::{Options, Testpmd};
use virtqueue::NetHeader;
use virtqueue::driver::Shape;

const LIMIT: Duration = Duration::from_secs(5);

/// A switch that hands every frame from one port to the other as it is.
fn switch(dir: &Path) -> (Testpmd, [PathBuf; 2]) {
    let sockets = ["a", "b"].map(|name| dir.join(name));
    let options = Options::new("io", 0)
        .vhost(&sockets[0], "")
        .vhost(&sockets[1], "")
        .argument("--mbuf-size=9000");
    (Testpmd::run(&options).unwrap(), sockets)
}

fn frame(length: usize) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];
    bytes.extend((bytes.len()..length).map(|i| (i % 251) as u8));
    bytes
}

#[test]
fn frames_cross_a_foreign_switch_unchanged_in_every_shape() {
    let _alone = lab::paths::alone().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (mut switch, [a, b]) = switch(dir.path());
    for wanted in [
        features::ALL & !features::OFFLOADS,
        features::VERSION_1 | features::PROTOCOL,
        features::VERSION_1 | features::PROTOCOL | features::MRG_RXBUF,
        features::VERSION_1 | features::PROTOCOL | features::EVENT_IDX | features::INDIRECT_DESC,
    ] {
        let settings = Settings { features: wanted, ..Settings::plain() };
        let mut a = DriverPort::connect(&a, &settings).unwrap();
        let mut b = DriverPort::connect(&b, &settings).unwrap();
        switch.forward().unwrap();
        for (i, length) in [14, 60, 61, 1514, 4100, 8000].into_iter().enumerate() {
            let cuts: [&[usize]; 3] = [&[], &[12, 14], &[5, 7, 1, 20]];
            let indirect = a.features & features::INDIRECT_DESC != 0;
            let shape = Shape { cuts: cuts[i % 3], table: (indirect && i % 2 == 0).then_some(0) };
            a.send_shaped(&NetHeader::default(), &frame(length), shape).unwrap();
            let (header, got) = b.receive(LIMIT).unwrap().unwrap();
            assert_eq!((header.flags, header.gso_type), (0, NetHeader::GSO_NONE));
            assert_eq!(got, frame(length));
            b.send_plain(&got).unwrap();
            assert_eq!(a.receive(LIMIT).unwrap().unwrap().1, frame(length));
        }
        a.wait_sent(LIMIT).unwrap();
        assert!(a.receive(Duration::from_millis(20)).unwrap().is_none());
        switch.stop().unwrap();
        // Counted from the start of its rings: six frames out.
        assert_eq!(a.stop().unwrap().1, 6);
    }
}

#[test]
fn more_frames_than_the_ring_has_entries_arrive_in_order() {
    let _alone = lab::paths::alone().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (mut switch, [a, b]) = switch(dir.path());
    let settings = Settings { ring: 64, ..Settings::plain() };
    let mut a = DriverPort::connect(&a, &settings).unwrap();
    let mut b = DriverPort::connect(&b, &settings).unwrap();
    switch.forward().unwrap();
    for round in 0..20u16 {
        for i in 0..30u16 {
            let mut bytes = frame(100);
            bytes[20..22].copy_from_slice(&(round * 30 + i).to_le_bytes());
            a.send_plain(&bytes).unwrap();
        }
        for i in 0..30u16 {
            let (_, bytes) = b.receive(LIMIT).unwrap().unwrap();
            assert_eq!(bytes[20..22], (round * 30 + i).to_le_bytes());
        }
    }
}

#[test]
fn nothing_arrives_when_the_switch_does_not_forward() {
    let _alone = lab::paths::alone().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (_switch, [a, b]) = switch(dir.path());
    let mut a = DriverPort::connect(&a, &Settings::plain()).unwrap();
    let mut b = DriverPort::connect(&b, &Settings::plain()).unwrap();
    a.send_plain(&frame(60)).unwrap();
    assert!(b.receive(Duration::from_millis(200)).unwrap().is_none());
}
