//! The fields of a message, written and read.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use datapath::keeper::MAX_KEY;

use super::protocol::{Arrival, Death, Ended, MAX_TEXT, MAX_WORDS, MAX_WORDS_LEN, ProtocolError};

pub(super) fn with_text(kind: u8, text: &str) -> Vec<u8> {
    with_bytes(kind, &[text.as_bytes()])
}

pub(super) fn with_bytes(kind: u8, fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![kind];
    fields.iter().for_each(|f| bytes.extend_from_slice(f));
    bytes
}

pub(super) fn check_key(key: &str) -> Result<&str, ProtocolError> {
    if key.is_empty() { Err(ProtocolError::Key(0)) } else { check_prefix(key) }
}

pub(super) fn check_prefix(prefix: &str) -> Result<&str, ProtocolError> {
    if prefix.len() <= MAX_KEY { Ok(prefix) } else { Err(ProtocolError::Key(prefix.len())) }
}

pub(super) fn encode_death(death: Option<Death>) -> [u8; 5] {
    let (kind, value) = match death {
        None => (0, 0),
        Some(Death::Ended(Ended::Exited(code))) => (1, code),
        Some(Death::Ended(Ended::Signaled(signal))) => (2, signal),
        Some(Death::Silent) => (3, 0),
    };
    let [a, b, c, d] = value.to_le_bytes();
    [kind, a, b, c, d]
}

/// As much of a text as a message may have.
pub(super) fn clipped(text: &str) -> &str {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    text.get(..end).unwrap_or_default()
}

/// Words, each after its length.
pub(super) fn encode_words(words: &[OsString]) -> Result<Vec<u8>, ProtocolError> {
    let mut bytes = Vec::new();
    for word in words {
        let len = u16::try_from(word.len()).map_err(|_| ProtocolError::Words)?;
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(word.as_bytes());
    }
    let fits = words.len() <= MAX_WORDS && bytes.len() <= MAX_WORDS_LEN;
    if fits { Ok(bytes) } else { Err(ProtocolError::Words) }
}

/// What is left of a message that is being read.
pub(super) struct Fields<'a> {
    pub(super) kind: u8,
    len: usize,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn of(bytes: &'a [u8]) -> Result<Self, ProtocolError> {
        let (&kind, rest) = bytes.split_first().ok_or(ProtocolError::Kind(0))?;
        Ok(Self { kind, len: bytes.len(), rest })
    }

    fn length_error(&self) -> ProtocolError {
        ProtocolError::Length { kind: self.kind, len: self.len }
    }

    pub(super) fn take<const N: usize>(&mut self) -> Result<&'a [u8; N], ProtocolError> {
        let (field, rest) = self.rest.split_first_chunk().ok_or_else(|| self.length_error())?;
        self.rest = rest;
        Ok(field)
    }

    pub(super) fn u32(&mut self) -> Result<u32, ProtocolError> {
        Ok(u32::from_le_bytes(*self.take()?))
    }

    pub(super) fn death(&mut self) -> Result<Option<Death>, ProtocolError> {
        let [kind, value @ ..] = *self.take::<5>()?;
        match (kind, i32::from_le_bytes(value)) {
            (0, 0) => Ok(None),
            (1, code) => Ok(Some(Death::Ended(Ended::Exited(code)))),
            (2, signal) => Ok(Some(Death::Ended(Ended::Signaled(signal)))),
            (3, 0) => Ok(Some(Death::Silent)),
            _ => Err(ProtocolError::Value(kind.into())),
        }
    }

    pub(super) fn u64(&mut self) -> Result<u64, ProtocolError> {
        Ok(u64::from_le_bytes(*self.take()?))
    }

    pub(super) fn arrival(&mut self) -> Result<Arrival, ProtocolError> {
        let known = [Arrival::First, Arrival::Death, Arrival::Switch, Arrival::Back];
        let [number] = *self.take()?;
        let arrival = known.get(usize::from(number)).copied();
        arrival.ok_or(ProtocolError::Value(number.into()))
    }

    pub(super) fn text(&mut self) -> Result<String, ProtocolError> {
        let text = std::mem::take(&mut self.rest);
        let fits = str::from_utf8(text).ok().filter(|t| t.len() <= MAX_TEXT);
        fits.map(str::to_owned).ok_or(ProtocolError::Text(text.len()))
    }

    pub(super) fn words(&mut self) -> Result<Vec<OsString>, ProtocolError> {
        if self.rest.len() > MAX_WORDS_LEN {
            return Err(ProtocolError::Words);
        }
        let mut words = Vec::new();
        while !self.rest.is_empty() {
            let len = u16::from_le_bytes(*self.take()?);
            let (word, rest) =
                self.rest.split_at_checked(len.into()).ok_or_else(|| self.length_error())?;
            self.rest = rest;
            words.push(OsString::from_vec(word.to_vec()));
        }
        if words.len() > MAX_WORDS { Err(ProtocolError::Words) } else { Ok(words) }
    }

    pub(super) fn prefix(&mut self) -> Result<String, ProtocolError> {
        let text = std::mem::take(&mut self.rest);
        let text = str::from_utf8(text).map_err(|_| ProtocolError::Key(text.len()))?;
        check_prefix(text).map(str::to_owned)
    }

    pub(super) fn key(&mut self) -> Result<String, ProtocolError> {
        let key = self.prefix()?;
        check_key(&key)?;
        Ok(key)
    }

    pub(super) fn counted_key(&mut self) -> Result<String, ProtocolError> {
        let [len] = *self.take()?;
        let (key, rest) =
            self.rest.split_at_checked(len.into()).ok_or_else(|| self.length_error())?;
        self.rest = key;
        let key = self.key()?;
        self.rest = rest;
        Ok(key)
    }

    pub(super) fn end<T>(self, message: T) -> Result<T, ProtocolError> {
        if self.rest.is_empty() { Ok(message) } else { Err(self.length_error()) }
    }
}
