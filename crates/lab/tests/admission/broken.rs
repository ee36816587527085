//! Admission against a base that admits too much: each test notices.

use lab::faults::assert_noticed;

#[test]
fn a_base_that_admits_too_much_makes_these_tests_fail() {
    assert_noticed(&[
        ("source", "table::from_a_vm_every_source_and_destination_meets_its_fate"),
        ("lose vm-to-lan", "table::from_a_vm_every_source_and_destination_meets_its_fate"),
        ("last-inch", "forged::no_dhcp_reply_reaches_a_vm"),
        ("last-inch", "forged::no_neighbour_discovery_from_outside_reaches_a_vm"),
    ])
    .unwrap();
}
