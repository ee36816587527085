//! The header before each frame in a ring (virtio 1.2, section 5.1.6): what was left to offload.
//!
//! It is plain data here. Whether what a guest wrote in it is true is the datapath's to decide; the
//! header towards a receiver is always built afresh.

/// `struct virtio_net_hdr` (with `num_buffers`), in the guest's byte order: little endian.
/// The kernel's packet sockets and TUN devices use its first ten octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetHeader {
    /// `F_*` bits.
    pub flags: u8,
    /// `GSO_*` value.
    pub gso_type: u8,
    /// Octets of all headers in a large send: a hint.
    pub hdr_len: u16,
    /// Payload octets of each segment of a large send.
    pub gso_size: u16,
    /// Where the checksum starts, counted from the frame's first octet.
    pub csum_start: u16,
    /// Where the checksum is to be put, counted from `csum_start`.
    pub csum_offset: u16,
    /// Receive buffers used (mergeable receive buffers only).
    pub num_buffers: u16,
}

impl NetHeader {
    /// Octets with `num_buffers`: always, once VERSION_1 or MRG_RXBUF is negotiated.
    pub const LEN: usize = 12;
    /// Octets without `num_buffers`: legacy drivers, packet sockets, TUN.
    pub const SHORT_LEN: usize = 10;
    /// Where `gso_type` stands.
    pub const GSO_TYPE: usize = 1;
    /// The checksum is left to whoever sends the frame on.
    pub const F_NEEDS_CSUM: u8 = 1;
    /// The checksum was verified.
    pub const F_DATA_VALID: u8 = 2;
    /// Not a large send.
    pub const GSO_NONE: u8 = 0;
    /// TCP over IPv4.
    pub const GSO_TCPV4: u8 = 1;
    /// UDP fragmentation, obsolete.
    pub const GSO_UDP: u8 = 3;
    /// TCP over IPv6.
    pub const GSO_TCPV6: u8 = 4;
    /// UDP segmentation.
    pub const GSO_UDP_L4: u8 = 5;
    /// Bit beside the type: congestion was notified.
    pub const GSO_ECN: u8 = 0x80;

    /// Whether a header says that something is left to do with its frame.
    #[inline]
    pub fn leaves_work(header: &[u8; Self::LEN]) -> bool {
        header[0] & Self::F_NEEDS_CSUM != 0 || Self::is_large(header)
    }

    /// Whether a header says that its frame is a large send.
    #[inline]
    pub fn is_large(header: &[u8; Self::LEN]) -> bool {
        header[1] != Self::GSO_NONE
    }

    /// The header's twelve octets.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let [h0, h1] = self.hdr_len.to_le_bytes();
        let [g0, g1] = self.gso_size.to_le_bytes();
        let [s0, s1] = self.csum_start.to_le_bytes();
        let [o0, o1] = self.csum_offset.to_le_bytes();
        let [n0, n1] = self.num_buffers.to_le_bytes();
        [self.flags, self.gso_type, h0, h1, g0, g1, s0, s1, o0, o1, n0, n1]
    }

    /// Reads twelve octets as a header.
    pub fn from_bytes(b: [u8; Self::LEN]) -> Self {
        let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1, n0, n1] = b;
        Self {
            flags,
            gso_type,
            hdr_len: u16::from_le_bytes([h0, h1]),
            gso_size: u16::from_le_bytes([g0, g1]),
            csum_start: u16::from_le_bytes([s0, s1]),
            csum_offset: u16::from_le_bytes([o0, o1]),
            num_buffers: u16::from_le_bytes([n0, n1]),
        }
    }
}
