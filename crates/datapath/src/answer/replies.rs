//! Frames that the base hands back to the guest whose frame it looks at.

/// Octets of buffer that are kept from one batch to the next.
const KEEP: usize = 256 * 1024;

/// Frames for one guest, in order. One buffer holds them all and is used again after
/// [`clear`](Self::clear): once it has grown, no reply costs an allocation.
#[derive(Debug, Default)]
pub struct Replies {
    bytes: Vec<u8>,
    /// Where each frame ends.
    ends: Vec<usize>,
}

impl Replies {
    /// No frames yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets all frames and keeps the buffer, if it is not excessively large.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.bytes.shrink_to(KEEP);
    }

    /// How many frames there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The frames, Ethernet header first, in the order they were made.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| self.bytes.get(start..end).unwrap_or_default())
    }

    /// A new frame of `len` zeroes at the end, to be filled in.
    pub(super) fn frame(&mut self, len: usize) -> &mut [u8] {
        let start = self.bytes.len();
        let end = start.saturating_add(len);
        self.bytes.resize(end, 0);
        self.ends.push(end);
        self.bytes.get_mut(start..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_in_order_and_a_cleared_buffer_starts_from_zeroes() {
        let mut replies = Replies::new();
        replies.frame(3).fill(1);
        replies.frame(2).fill(2);
        assert_eq!(replies.iter().collect::<Vec<_>>(), [&[1, 1, 1][..], &[2, 2]]);
        replies.clear();
        assert!(replies.is_empty());
        replies.frame(4);
        assert_eq!(replies.iter().collect::<Vec<_>>(), [&[0; 4]]);
    }

    #[test]
    fn one_large_batch_does_not_keep_its_memory_for_ever() {
        let mut replies = Replies::new();
        for _ in 0..20 {
            replies.frame(65_000);
        }
        replies.clear();
        assert!(replies.bytes.capacity() <= KEEP);
    }
}
