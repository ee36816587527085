//! Another base in the place of one that serves: upgrades, reloads, and holders that die.
//!
//! Everything happens under numbered traffic that must arrive, each datagram once: a base that
//! yields finishes its batch.

mod broken;
mod difference;
mod guests;
mod holder;
mod reload;
mod stage;
mod upgrade;
