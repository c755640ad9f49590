use super::*;

/// Two regions that touch in the guest.
fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1_0000), (GuestAddress(0x1_0000), 0x1_0000)]).unwrap()
}

fn queue(descriptors: u64, available: u64, used: u64) -> Queue {
    let mut queue = Queue::new(256).unwrap();
    queue.set_size(16);
    queue.set_desc_table_address(Some(descriptors as u32), None);
    queue.set_avail_ring_address(Some(available as u32), None);
    queue.set_used_ring_address(Some(used as u32), None);
    queue
}

#[test]
fn a_ring_lies_in_one_region() {
    let memory = memory();
    let inside = place(&queue(0x1000, 0x2000, 0x1_3000), &memory).unwrap();
    assert_eq!((inside.queue_size, inside.desc_table_addr, inside.used_ring_addr), (16, 0x1000, 0x1_3000));
    // Each part up to the end of a region, and a step beyond it.
    assert!(place(&queue(0x1_0000 - 256, 0x1_0000 - 40, 0x2_0000 - 136), &memory).is_ok());
    for (descriptors, available, used) in [
        (0x1_0000 - 240, 0, 0x1_0000),
        (0, 0x1_0000 - 36, 0x1_0000),
        (0, 0x1000, 0x1_0000 - 132),
        (0, 0x1000, 0x2_0000 - 132),
        (0x3_0000, 0, 0),
    ] {
        assert!(place(&queue(descriptors, available, used), &memory).is_err());
    }
}

#[test]
fn a_host_without_vhost_says_so() {
    if let Err(error) = open(1) {
        assert!(error.raw_os_error().is_some(), "{error}");
    }
}
