//! The search domain as DHCP (RFC 3397), DHCPv6 (RFC 3646) and router advertisements (RFC 8106) tell it:
//! a domain name as DNS writes it, label by label and not compressed.

/// Octets of the longest label.
const MAX_LABEL: usize = 63;
/// Octets of the longest domain told: a guest's domain is the name of its network.
const MAX_DOMAIN: usize = 64;

/// The domain's octets; none for an empty one, and none for what is no domain name.
pub(super) fn encoded(domain: &str) -> Vec<u8> {
    let sound = |label: &str| (1..=MAX_LABEL).contains(&label.len());
    if domain.len() > MAX_DOMAIN || !domain.split('.').all(sound) {
        return Vec::new();
    }
    let labels = domain.split('.').flat_map(|label| {
        let len = u8::try_from(label.len()).unwrap_or_default();
        std::iter::once(len).chain(label.bytes())
    });
    labels.chain([0]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_written_label_by_label_and_what_is_none_is_not_told() {
        assert_eq!(encoded("lan"), b"\x03lan\x00");
        assert_eq!(encoded("my_net.example"), b"\x06my_net\x07example\x00");
        for wrong in ["", ".", "a..b", &"x".repeat(64), &"ab.".repeat(30)] {
            assert_eq!(encoded(wrong), b"", "{wrong}");
        }
    }
}
