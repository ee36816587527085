//! Captures and raw frames between two namespaces.

use std::time::{Duration, SystemTime};

use lab::capture::{Capture, Tap, save};
use lab::command::wait_until;
use lab::netns::{Netns, cable};
use virtqueue::NetHeader;

/// A cable on which nobody else talks.
fn quiet_cable() -> (Netns, Netns) {
    let (a, b) = (Netns::new().unwrap(), Netns::new().unwrap());
    for space in [&a, &b] {
        space.sysctl("net.ipv6.conf.default.disable_ipv6", "1").unwrap();
    }
    cable((&a, "eth1"), (&b, "lan0")).unwrap();
    // Until the kernel has taken note of the cable, at its leisure, it throws away what is sent.
    for (space, card) in [(&a, "eth1"), (&b, "lan0")] {
        let state = || space.run(&format!("ip -br link show dev {card}"));
        let is_up = || Ok(state()?.contains(" UP ").then_some(()));
        wait_until(Duration::from_secs(5), || format!("{card} to be up"), is_up).unwrap();
    }
    (a, b)
}

fn frame(length: usize) -> Vec<u8> {
    // An EtherType for local experiments.
    let mut bytes = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];
    bytes.extend((bytes.len()..length).map(|i| i as u8));
    bytes
}

#[test]
fn frames_arrive_as_sent_with_their_time_and_direction() {
    let (a, b) = quiet_cable();
    let capture = Capture::start(&b, "lan0").unwrap();
    let sender = Tap::open(&a, "eth1").unwrap();
    let before = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let sent: Vec<_> = [14, 15, 60, 1514].map(frame).into();
    for bytes in &sent {
        sender.send(bytes).unwrap();
    }
    Tap::open(&b, "lan0").unwrap().send(&frame(77)).unwrap();
    capture
        .wait_for(Duration::from_secs(5), "the frame sent the other way", |f| f.outgoing)
        .unwrap();
    let frames = capture.stop().unwrap();
    let came: Vec<_> = frames.iter().filter(|f| !f.outgoing).map(|f| f.bytes.clone()).collect();
    assert_eq!(came, sent);
    for f in &frames {
        assert!(f.at >= before && f.at < before + Duration::from_secs(5), "{:?}", f.at);
    }
    assert_eq!(frames.last().unwrap().bytes, frame(77));

    let file = tempfile::NamedTempFile::new().unwrap();
    save(&frames, file.path()).unwrap();
    let read = pcap_file::pcap::PcapReader::new(std::fs::File::open(file.path()).unwrap());
    let mut read = read.unwrap();
    let packet = read.next_packet().unwrap().unwrap();
    assert_eq!(packet.data.to_vec(), frame(14));
    assert_eq!(packet.timestamp.as_micros(), frames[0].at.as_micros());
}

#[test]
fn a_large_send_passes_whole_with_its_header() {
    let (a, b) = quiet_cable();
    let capture = Capture::start(&b, "lan0").unwrap();
    let mut bytes = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0x00];
    let length: u16 = 60_000;
    bytes.extend([0x45, 0]);
    bytes.extend(length.to_be_bytes());
    bytes.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 203, 0, 113, 1, 203, 0, 113, 2]);
    bytes.extend([
        0x1b, 0x58, 0x1b, 0x59, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0,
    ]);
    bytes.resize(14 + usize::from(length), 0x5a);
    let header = NetHeader {
        flags: NetHeader::F_NEEDS_CSUM,
        gso_type: NetHeader::GSO_TCPV4,
        hdr_len: 54,
        gso_size: 1448,
        csum_start: 34,
        csum_offset: 16,
        num_buffers: 0,
    };
    Tap::open(&a, "eth1").unwrap().send_with(header, &bytes).unwrap();
    let got = capture.wait_for(Duration::from_secs(5), "a frame", |_| true).unwrap();
    assert_eq!(got.bytes, bytes);
    assert_eq!((got.header.gso_type, got.header.gso_size), (NetHeader::GSO_TCPV4, 1448));
}

#[test]
fn nothing_arrives_on_a_cut_cable() {
    let (a, b) = quiet_cable();
    let capture = Capture::start(&b, "lan0").unwrap();
    b.run("ip link set lan0 down").unwrap();
    let sender = Tap::open(&a, "eth1").unwrap();
    let _ = sender.send(&frame(60));
    assert!(capture.wait_for(Duration::from_millis(100), "a frame", |_| true).is_err());
    assert!(capture.stop().unwrap().is_empty());
}
