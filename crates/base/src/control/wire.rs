//! Lines of JSON with an upper bound.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Octets of the longest line, its end included: the counters of a thousand VMs fit.
pub const MAX_LINE: usize = 16 * 1024 * 1024;
/// Octets of the longest request: a configuration as long as one may be, with each octet escaped.
pub(super) const MAX_REQUEST: usize = 2 * crate::config::LONGEST + 16 * 1024;

/// Why a line could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The line is longer than either side accepts.
    #[error("a line of more than {limit} octets")]
    TooLong {
        /// What is accepted.
        limit: usize,
    },
    /// The line is not the JSON that was expected.
    #[error("not what the control socket speaks")]
    Json(#[from] serde_json::Error),
}

/// `value` as one line, its end included.
pub(super) fn line(value: &impl Serialize) -> Result<Vec<u8>, WireError> {
    let mut bytes = serde_json::to_vec(value)?;
    bytes.push(b'\n');
    if bytes.len() > MAX_LINE { Err(WireError::TooLong { limit: MAX_LINE }) } else { Ok(bytes) }
}

/// The value in one line, with or without its end.
pub(super) fn value<T: DeserializeOwned>(line: &[u8]) -> Result<T, WireError> {
    Ok(serde_json::from_slice(line.trim_ascii())?)
}
