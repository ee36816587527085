//! ARP messages of a guest.
#![no_main]

mod last_inch;

use datapath::answer::Answer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|message: &[u8]| {
    let fate = last_inch::answer(&last_inch::frame(0x0806, message));
    assert!(fate != Some(Answer::NotForBase), "ARP is never passed on");
});
