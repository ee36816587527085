//! Fourth exception: TCP segments that the host's kernel merges on the way in from the card.
//!
//! The kernel of this machine merges what comes in while it looks at the card (software GRO). A
//! driver that takes large sends gets the merged one; for another the base cuts it again, and what
//! arrives is what was on the wire, but for the identification of segments marked DF. With
//! `coalesce = false` nothing is merged, and every segment arrives as it was. By AF_XDP neither: a frame
//! leaves the kernel before it would be merged.

use std::time::Duration;

use lab::command::output;
use lab::driver::Settings;
use lab::frames::datagram_of;
use lab::scene::{CARD, LAN_CARD, OUTSIDE, Scene, by_xdp, vm};
use lab::wired::Wiring;
use virtqueue::NetHeader;

use super::checks::{Case, Stage, card, is_plain, next, nothing_more, same};
use super::large::Large;

/// How long the kernel waits for more that can be merged. It does not wait beyond its next tick
/// though, so what comes one by one may be merged to more than one.
const PATIENCE: Duration = Duration::from_millis(30);

/// A scene whose card merges what comes together.
fn merging_card() -> Scene {
    let scene = Scene::set().unwrap();
    card(&scene, "gro on");
    // A cable between two namespaces merges only what comes from a card that cuts nothing.
    scene.outside.run(&format!("ethtool -K {LAN_CARD} tso off")).unwrap();
    let line = format!("echo {} > /sys/class/net/{CARD}/gro_flush_timeout", PATIENCE.as_nanos());
    output(scene.host.command("sh").args(["-c", &line])).unwrap();
    scene
}

/// Whether the kernel has a chance to merge.
fn merges() -> bool {
    !by_xdp(Wiring::default().mtu)
}

fn wiring(receiver: Settings, coalesce: bool) -> Wiring {
    let network = format!("coalesce = {coalesce}");
    Wiring { drivers: [Settings::default(), receiver], network, ..Wiring::default() }
}

/// Bursts of segments, each of which can be merged to one.
fn bursts() -> Vec<Large> {
    let [four, six] = [(OUTSIDE[0], vm(1)[0]), (OUTSIDE[1], vm(1)[1])];
    let large = |name, (from, to)| Large::new(name, from, to, 1400, 14_000);
    vec![
        Large { dont_fragment: false, ..large("IPv4", four) },
        large("IPv4, marked DF, identifications that count", four),
        large("IPv6", six),
    ]
}

/// A burst whose segments all have the same identification, as some senders number what is not to
/// be fragmented.
fn unnumbered() -> Vec<Case> {
    let large = Large::new("IPv4, marked DF, not numbered", OUTSIDE[0], vm(1)[0], 1400, 14_000);
    let mut segments = large.segments();
    for (_, segment) in &mut segments {
        set_identification(segment, 0);
    }
    segments
}

fn set_identification(datagram: &mut [u8], identification: u16) {
    datagram[4..6].copy_from_slice(&identification.to_be_bytes());
    lab::frames::fix_ip4_checksum(datagram);
}

fn send(stage: &Stage, segments: &[Case]) {
    for (_, segment) in segments {
        stage.w.tap.send(&stage.w.from_lan(segment)).unwrap();
    }
}

fn arrived(stage: &mut Stage, count: usize) -> Vec<Vec<u8>> {
    let receive = |_| {
        let (header, frame) = next(&mut stage.w.b)?;
        // The kernel may know that the checksum is right, and says so.
        let known = NetHeader { flags: header.flags & !NetHeader::F_DATA_VALID, ..header };
        assert!(is_plain(&known), "{header:?}");
        Some(datagram_of(&frame).to_vec())
    };
    (0..count).map_while(receive).collect()
}

/// How often a burst is sent until the kernel has merged it to one: nearly always once.
const TRIES: usize = 20;

/// Sends a burst, and checks each merged segment that arrives. How many arrived.
fn arrives_merged(stage: &mut Stage, large: &Large) -> usize {
    let count = large.segments().len();
    send(stage, &large.segments());
    let (mut next_segment, mut merged) = (0, 0);
    while next_segment < count {
        let (header, frame) = next(&mut stage.w.b).expect("the rest of a burst");
        let datagram = datagram_of(&frame).to_vec();
        let segments = (datagram.len() - large.headers()).div_ceil(large.size);
        let part = large.part(next_segment..next_segment + segments);
        let (expected, octets) = match segments {
            1 => (NetHeader::default(), part.segments().remove(0).1),
            _ => part.whole(),
        };
        let flags = header.flags & !NetHeader::F_DATA_VALID;
        assert_eq!(NetHeader { num_buffers: 0, flags, ..header }, expected, "{}", large.name);
        same("merged", &[(large.name, octets)], &[datagram]);
        next_segment += segments;
        merged += 1;
    }
    merged
}

#[test]
fn merged_segments_reach_a_driver_that_takes_large_sends_as_one() {
    let mut stage = Stage::on(merging_card(), &wiring(Settings::default(), true));
    for large in bursts() {
        if !merges() {
            assert_eq!(arrives_merged(&mut stage, &large), large.segments().len(), "by AF_XDP");
            continue;
        }
        let merged = (0..TRIES).any(|_| arrives_merged(&mut stage, &large) == 1);
        assert!(merged, "{}: never merged to one", large.name);
    }
    nothing_more(&mut stage.w.b);
    stage.end();
}

#[test]
fn merged_segments_reach_any_other_driver_as_they_were_on_the_wire() {
    let mut stage = Stage::on(merging_card(), &wiring(Settings::plain(), true));
    let mut sent = 0;
    for large in bursts() {
        let segments = large.segments();
        send(&stage, &segments);
        let arrived = arrived(&mut stage, segments.len());
        same("merged and cut again", &segments, &arrived);
        sent += segments.len() as u64;
    }
    nothing_more(&mut stage.w.b);
    let counters = stage.end();
    let (cut, came) = (counters.get("vm/b", "segmented"), counters.get("uplink/lan", "to_vm"));
    if merges() {
        // They were merged indeed: fewer came in than were sent.
        assert!(cut > 0 && came < sent / 2, "{cut} were cut, {came} of {sent} came");
    } else {
        assert_eq!((cut, came), (0, sent), "by AF_XDP");
    }
}

#[test]
fn merged_segments_marked_df_may_come_back_with_another_identification_and_no_other_change() {
    let mut stage = Stage::on(merging_card(), &wiring(Settings::plain(), true));
    let mut renumbered = false;
    for _ in 0..TRIES {
        let mut segments = unnumbered();
        send(&stage, &segments);
        let mut arrived = arrived(&mut stage, segments.len());
        if !merges() {
            same("by AF_XDP", &segments, &arrived);
            continue;
        }
        renumbered |= arrived.iter().any(|datagram| datagram[4..6] != [0, 0]);
        // Of a segment marked DF it means nothing (RFC 6864).
        for datagram in segments.iter_mut().map(|(_, d)| d).chain(&mut arrived) {
            set_identification(datagram, 7);
        }
        same("merged and cut again", &segments, &arrived);
        if renumbered {
            break;
        }
    }
    assert_eq!(renumbered, merges(), "nothing was merged");
    nothing_more(&mut stage.w.b);
    stage.end();
}

#[test]
fn without_coalescing_every_segment_arrives_as_it_was_on_the_wire() {
    let scene = merging_card();
    let gro = |scene: &Scene| {
        let features = scene.host.run(&format!("ethtool -k {CARD}")).unwrap();
        features
            .lines()
            .find_map(|l| l.strip_prefix("generic-receive-offload: ").map(str::to_owned))
    };
    assert_eq!(gro(&scene).as_deref(), Some("on"));
    let mut stage = Stage::on(scene, &wiring(Settings::default(), false));
    assert_eq!(gro(&stage.w.scene).as_deref(), Some("off"));
    let mut all: Vec<_> = bursts().iter().map(Large::segments).collect();
    all.push(unnumbered());
    for segments in &all {
        send(&stage, segments);
        let arrived = arrived(&mut stage, segments.len());
        same("not merged", segments, &arrived);
    }
    nothing_more(&mut stage.w.b);
    let counters = stage.end();
    assert_eq!(counters.get("vm/b", "segmented"), 0);
    let count: usize = all.iter().map(Vec::len).sum();
    assert_eq!(counters.get("uplink/lan", "to_vm"), count as u64);
}
