//! Two stock testpmd against each other, without a base: the tool itself counts right.

use std::thread::sleep;
use std::time::Duration;

use lab::testpmd::{Options, Testpmd};

const PEER: &str = "02:00:00:00:00:02";

#[test]
fn what_a_driver_sends_a_switch_receives_to_the_last_packet() {
    let _alone = lab::paths::alone().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("port");
    let mut switch = Testpmd::run(&Options::new("rxonly", 0).vhost(&socket, "")).unwrap();
    let driver = Options::new("txonly", 1)
        .virtio_user(&socket, "02:00:00:00:00:01", "")
        .peer(0, PEER)
        .argument("--tx-ip=198.51.100.1,198.51.100.2");
    let mut driver = Testpmd::run(&driver).unwrap();
    switch.forward().unwrap();
    driver.forward().unwrap();
    sleep(Duration::from_millis(300));
    driver.stop().unwrap();
    let sent = driver.statistics(0).unwrap();
    sleep(Duration::from_millis(100));
    switch.stop().unwrap();
    let received = switch.statistics(0).unwrap();
    assert!(sent.tx_packets > 10_000, "{sent:?}");
    assert_eq!((received.rx_packets, received.rx_bytes), (sent.tx_packets, sent.tx_bytes));
    driver.quit().unwrap();
    switch.quit().unwrap();
}

#[test]
fn a_driver_that_listens_comes_up_when_somebody_connects_and_packets_swing_both_ways() {
    let _alone = lab::paths::alone().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("port");
    let options = Options::new("5tswap", 0).virtio_user(&socket, "02:00:00:00:00:01", ",server=1");
    let mut driver = Testpmd::start(&options).unwrap();
    assert!(driver.wait_ready(Duration::from_millis(500)).is_err());

    let options = Options::new("5tswap", 1)
        .vhost(&socket, ",client=1")
        .peer(0, PEER)
        .argument("--tx-ip=198.51.100.1,198.51.100.2");
    let mut switch = Testpmd::run(&options).unwrap();
    driver.wait_ready(Duration::from_secs(10)).unwrap();
    driver.forward().unwrap();
    switch.forward_after_sending(4).unwrap();
    sleep(Duration::from_millis(300));
    switch.stop().unwrap();
    sleep(Duration::from_millis(100));
    driver.stop().unwrap();
    // What still lies in the switch's ring is taken when it starts again.
    switch.set_mode("rxonly").unwrap();
    switch.forward().unwrap();
    sleep(Duration::from_millis(100));
    let (a, b) = (driver.statistics(0).unwrap(), switch.statistics(0).unwrap());
    assert!(a.tx_packets > 1000 && b.tx_packets > 1000, "{a:?} {b:?}");
    assert_eq!((a.tx_packets, b.tx_packets), (b.rx_packets, a.rx_packets));
}
