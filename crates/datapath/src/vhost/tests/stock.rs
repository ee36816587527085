//! A front end that nobody here wrote: the `vhost` crate's.

use std::os::fd::AsRawFd;

use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::EventFd;

use super::stage::{FEATURES, Guest, RING_SIZE, STOPPED_AT, Stage};
use crate::names::RingId;
use crate::vhost::features;

#[test]
fn the_vhost_crates_front_end_negotiates_runs_and_stops() {
    let (stage, guest) = (Stage::listening(), Guest::new());
    let mut front = Frontend::connect(stage.path(), 2).unwrap();
    front.set_owner().unwrap();
    assert_eq!(front.get_features().unwrap(), features::OFFERED);
    front.set_features(FEATURES).unwrap();
    let offered = front.get_protocol_features().unwrap();
    let wanted =
        VhostUserProtocolFeatures::REPLY_ACK | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS;
    assert_eq!(offered, wanted);
    front.set_protocol_features(wanted).unwrap();
    front.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    assert_eq!(front.get_max_mem_slots().unwrap(), 32);
    let region = |n: usize| {
        let region = &guest.memory.regions()[n];
        VhostUserMemoryRegionInfo {
            guest_phys_addr: (n as u64) << 32,
            memory_size: super::stage::MEMORY,
            userspace_addr: region.user(),
            mmap_offset: 0,
            mmap_handle: region.file().as_raw_fd(),
        }
    };
    front.set_mem_table(&[region(0)]).unwrap();
    front.add_mem_region(&region(1)).unwrap();
    front.remove_mem_region(&region(1)).unwrap();
    assert!(front.remove_mem_region(&region(1)).is_err());
    let bells: Vec<_> = (0..4).map(|_| EventFd::new(0).unwrap()).collect();
    for id in RingId::FIRST {
        let queue = usize::from(id.number());
        let [desc, used, avail] = guest.addresses(id);
        let config = VringConfigData {
            queue_max_size: RING_SIZE,
            queue_size: RING_SIZE,
            flags: 0,
            desc_table_addr: desc,
            used_ring_addr: used,
            avail_ring_addr: avail,
            log_addr: None,
        };
        front.set_vring_num(queue, RING_SIZE).unwrap();
        front.set_vring_addr(queue, &config).unwrap();
        front.set_vring_base(queue, 9).unwrap();
        front.set_vring_call(queue, &bells[queue]).unwrap();
        front.set_vring_kick(queue, &bells[2 + queue]).unwrap();
        assert!(stage.owner.ring(id).is_none());
        front.set_vring_enable(queue, true).unwrap();
        assert_eq!(stage.owner.ring(id).unwrap().layout, guest.rings[queue].layout());
        assert_eq!(bells[queue].read().unwrap(), 1, "called once at the start");
    }
    assert!(front.set_vring_num(0, 3).is_err());
    assert!(front.set_vring_enable(5, true).is_err());
    for queue in 0..2 {
        assert_eq!(front.get_vring_base(queue).unwrap(), STOPPED_AT);
    }
    assert_eq!(stage.owner.running(), 0);
}
