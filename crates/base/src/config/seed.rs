//! What a VM's cloud-init is told, read.

use super::reader::Reader;
use super::types::Seed;
use super::units::Wrong;
use super::vm::{Surroundings, file};

/// Keys one VM can have.
const MOST_KEYS: usize = 256;
/// Octets of the longest key: one of RSA with 16384 bits, and a comment, fit.
const LONGEST_KEY: usize = 8192;

/// `None` if nothing is said: then the guest gets no such disk.
pub(super) fn read(reader: &mut Reader<'_, '_>, around: &Surroundings<'_>) -> Option<Seed> {
    let said = ["user", "ssh_keys", "user_data"].iter().any(|key| reader.place(key).is_some());
    let user = reader.parsed("user", user).map(|u| u.value);
    let keys = reader.texts("ssh_keys", MOST_KEYS, key);
    let ssh_keys = keys.map_or(Vec::new(), |k| k.value.into_iter().map(|k| k.value).collect());
    let user_data = reader.parsed("user_data", |t| file(t, around)).map(|f| f.value);
    said.then_some(Seed { user, ssh_keys, user_data })
}

/// A name that every Linux system takes for a user.
fn user(text: &str) -> Result<String, Wrong> {
    let first = text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    let rest = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    if first && text.len() <= 32 && text.chars().all(rest) {
        return Ok(text.to_owned());
    }
    Err(Wrong::new(format!("`{text}` is not a user's name"))
        .help("small letters, digits, _ and -, beginning with a letter, at most 32"))
}

/// A public key as it stands in a `.pub` file: kind, octets in base64, comment.
fn key(text: &str) -> Result<String, Wrong> {
    let line = text.trim();
    let mut words = line.split_ascii_whitespace();
    let (kind, octets) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let base64 = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=');
    let known = ["ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-"].iter().any(|k| kind.starts_with(k));
    let fits = line.len() <= LONGEST_KEY && !line.chars().any(char::is_control);
    if known && fits && octets.starts_with("AAAA") && octets.chars().all(base64) {
        return Ok(line.to_owned());
    }
    Err(Wrong::new("this is not a public SSH key").help(
        "write the line that is in the `.pub` file, as in \"ssh-ed25519 AAAAC3Nz... admin@example\"",
    ))
}
