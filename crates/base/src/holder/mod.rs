//! placeholder
pub mod channel;
pub mod protocol;
pub mod registry;
