//! Real Linux guests, formed by `ipvisor up`: their addresses, their lives, and the base's deaths.
//!
//! Each test forms the guests it needs, two at most (`order`: four). As many tests run at once as there are cores:
//! under software emulation that is all that they carry, slowly. One that looks at the clock closely
//! has the machine alone. What takes minutes is for the long run.

#[cfg(feature = "long")]
mod again;
mod answers;
mod beside;
mod carried;
mod detection;
mod down;
mod idle;
#[cfg(feature = "long")]
mod life;
mod order;
mod overcommit;
mod pairs;
mod probing;
mod stage;
#[cfg(feature = "long")]
mod succession;
