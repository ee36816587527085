//! The key that leaves a console.

use std::fmt;
use std::str::FromStr;

/// A key with Ctrl, or none: then only the end of the console ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Escape(Option<u8>);

impl Default for Escape {
    /// Ctrl-]
    fn default() -> Self {
        Self(Some(0x1d))
    }
}

/// The text names no such key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoKey(String);

impl fmt::Display for NoKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is no key with Ctrl: write one as `^]` or `^a`, or `none`", self.0)
    }
}

impl std::error::Error for NoKey {}

impl FromStr for Escape {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<Self, NoKey> {
        if text == "none" {
            return Ok(Self(None));
        }
        let wrong = || NoKey(text.to_owned());
        let key =
            text.strip_prefix('^').or_else(|| text.strip_prefix("ctrl-")).ok_or_else(wrong)?;
        match key.as_bytes() {
            [key @ (b'a'..=b'z' | b'A'..=b'Z' | b'[' | b'\\' | b']' | b'^' | b'_')] => {
                Ok(Self(Some(key.to_ascii_uppercase() & 0x1f)))
            }
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Escape {
    /// As it is written on a keyboard.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(octet) => write!(f, "Ctrl-{}", char::from(octet | 0x40)),
            None => write!(f, "no key"),
        }
    }
}

impl Escape {
    /// What was typed before the key, if it is among this.
    pub fn before<'t>(&self, typed: &'t [u8]) -> Option<&'t [u8]> {
        let at = typed.iter().position(|octet| Some(*octet) == self.0)?;
        typed.get(..at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_people_write_them() {
        for (text, octet, shown) in [
            ("^]", Some(0x1d), "Ctrl-]"),
            ("^a", Some(1), "Ctrl-A"),
            ("^A", Some(1), "Ctrl-A"),
            ("ctrl-\\", Some(0x1c), "Ctrl-\\"),
            ("none", None, "no key"),
        ] {
            let escape: Escape = text.parse().unwrap();
            assert_eq!((escape, escape.to_string().as_str()), (Escape(octet), shown), "{text}");
        }
        assert_eq!(Escape::default(), "^]".parse().unwrap());
        for wrong in ["", "^", "a", "^1", "^aa", "ctrl-", "^é"] {
            assert!(wrong.parse::<Escape>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_was_typed_before_the_key_is_not_lost() {
        let escape = Escape::default();
        assert_eq!(escape.before(b"ls\r\x1dmore"), Some(&b"ls\r"[..]));
        assert_eq!(escape.before(b"ls\r"), None);
        assert_eq!("none".parse::<Escape>().unwrap().before(b"\x1d"), None);
    }
}
