//! Real Linux guests, formed by `ipvisor up`: their addresses, their lives, and the base's deaths.
//!
//! Each test forms the guests it needs, two at most; the tests take turns, because two guests under
//! software emulation are all that two cores can carry.

mod answers;
mod beside;
mod carried;
mod detection;
mod idle;
mod life;
mod overcommit;
mod probing;
mod stage;
mod succession;
