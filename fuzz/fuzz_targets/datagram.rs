//! The views of frames and datagrams: any octets are refused, or their views lie within them.
#![no_main]

use datapath::datagram::{Payload, last_inch_only, parse, parse_ip};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for payload in [parse(bytes).map(|(_, payload)| payload), parse_ip(bytes)].into_iter().flatten()
    {
        let _ = last_inch_only(&payload);
        assert!(payload.bytes().len() <= bytes.len());
        match payload {
            Payload::Ip4(ip) => {
                let parts = ip.header_len() + ip.payload().len();
                assert_eq!(parts, ip.bytes().len());
                assert_eq!(ip.options().len() + 20, ip.header_len());
            }
            Payload::Ip6(ip) => {
                assert!(ip.upper().offset <= ip.bytes().len());
                assert_eq!(ip.upper().offset + ip.upper_bytes().len(), ip.bytes().len());
            }
            Payload::Arp(_) => {}
        }
    }
});
