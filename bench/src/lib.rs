//! What the measurements share.
//!
//! ```text
//!  bin/instructions   instructions of the base for a datagram, compared with instructions.toml
//!  frames             the frames that are sent
//! ```

pub mod frames;
