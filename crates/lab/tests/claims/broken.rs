//! The claims against a base that breaks them: each test notices.

use lab::faults::assert_noticed;

const VM_TO_VM: &str = "unchanged::from_vm_to_vm_nothing_changes";
const OUT: &str = "unchanged::from_vm_to_the_lan_nothing_changes_and_the_source_is_the_cards_mac";
const IN: &str = "unchanged::from_the_lan_to_a_vm_nothing_changes";
const TO_HOST: &str = "unchanged::from_vm_to_the_host_nothing_changes";
const FROM_HOST: &str = "unchanged::from_the_host_to_a_vm_nothing_changes";
const LARGE: &str = "large::a_large_send_reaches_a_driver_that_cannot_take_it_in_segments";
const FRAGMENTS: &str = "fragments::what_is_too_long_for_the_lan_is_on_the_wire_in_fragments";

#[test]
fn a_broken_path_makes_its_claim_fail() {
    assert_noticed(&[
        ("flip vm-to-vm", VM_TO_VM),
        ("ttl vm-to-vm", VM_TO_VM),
        ("lose vm-to-vm", VM_TO_VM),
        ("flip vm-to-vm", LARGE),
        ("flip vm-to-lan", OUT),
        ("flip vm-to-lan", FRAGMENTS),
        ("flip lan-to-vm", IN),
        ("flip vm-to-host", TO_HOST),
        ("flip host-to-vm", FROM_HOST),
    ])
    .unwrap();
}
