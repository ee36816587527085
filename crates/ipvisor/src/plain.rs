//! What a guest shows, as text that does nothing to a terminal.
//!
//! # Theory of operation
//! A console's log has whatever its guest wrote: colours, and if the guest is hostile also sequences that
//! make a terminal hide lines, fill the clipboard, or answer, as if somebody had typed that. All
//! sequences (ECMA-48: ESC and what belongs to it) and all control characters but those that end a line
//! are left out, one octet at a time, so that a sequence may come in pieces.

/// Where in a sequence the text is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Within {
    /// In none.
    #[default]
    Text,
    /// Behind ESC.
    Escape,
    /// Behind `ESC [`, until a letter.
    Control,
    /// Behind `ESC ]` and the like, until BEL or `ESC \`.
    Words,
    /// In a character of UTF-8, of which so many octets are to come.
    Character(u8),
    /// Behind the octet with which the control characters of ISO 8859 begin in UTF-8, and others.
    Upper,
}

/// Leaves out what is no text.
#[derive(Debug, Default)]
pub struct Plain(Within);

/// The first octet of U+0080 to U+00BF.
const UPPER: u8 = 0xc2;

impl Plain {
    /// What is left of a piece.
    pub fn of(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut left = Vec::with_capacity(piece.len());
        for octet in piece {
            self.take(*octet, &mut left);
        }
        left
    }

    fn take(&mut self, octet: u8, left: &mut Vec<u8>) {
        self.0 = match (self.0, octet) {
            (Within::Character(more), 0x80..=0xbf) => {
                left.push(octet);
                if more > 1 { Within::Character(more - 1) } else { Within::Text }
            }
            (Within::Upper, 0xa0..=0xbf) => {
                left.extend([UPPER, octet]);
                Within::Text
            }
            (Within::Upper, 0x80..=0x9f) => Within::Text,
            (_, 0x1b) => Within::Escape,
            (Within::Escape, b'[') => Within::Control,
            (Within::Escape, b']' | b'P' | b'X' | b'^' | b'_') => Within::Words,
            // Marks before the letter that says what it is.
            (Within::Escape, 0x20..=0x2f) => Within::Escape,
            (Within::Escape, _) => Within::Text,
            (Within::Control, 0x40..=0x7e) => Within::Text,
            (Within::Control, 0x20..=0x3f) => Within::Control,
            (Within::Words, 0x07) => Within::Text,
            (Within::Words, _) => Within::Words,
            (_, b'\n' | b'\t' | 0x20..=0x7e) => {
                left.push(octet);
                Within::Text
            }
            (_, UPPER) => Within::Upper,
            (_, 0xc3..=0xf4) => {
                left.push(octet);
                Within::Character(if octet < 0xe0 { 1 } else { octet.leading_ones() as u8 - 1 })
            }
            // Control characters, and octets that are nothing by themselves.
            (_, _) => Within::Text,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_and_whatever_would_do_something_goes() {
        for (shown, left) in [
            ("login: \r\n\tok\n", "login: \n\tok\n"),
            ("\x1b[0;32m  OK  \x1b[0m Started", "  OK   Started"),
            ("a\x1b[6nb\x1b]52;c;ZXZpbA==\x07c", "abc"),
            ("a\x1b]0;title\x1b\\b\x1bPq\x1b\\c", "abc"),
            ("a\x1b(Bb\x1bcc\x08\x7fd", "abcd"),
            ("Grüße €, \u{a9} \u{1f600}", "Grüße €, \u{a9} \u{1f600}"),
            ("a\u{9b}6nb\u{85}", "a6nb"),
        ] {
            assert_eq!(Plain::default().of(shown.as_bytes()), left.as_bytes(), "{shown:?}");
            // In pieces of one octet each.
            let mut plain = Plain::default();
            let pieces: Vec<u8> = shown.bytes().flat_map(|octet| plain.of(&[octet])).collect();
            assert_eq!(pieces, left.as_bytes(), "{shown:?} in pieces");
        }
        assert_eq!(Plain::default().of(b"a\x9b6n\xffb\x80"), b"a6nb");
    }
}
