//! Forms and controls the virtual machines of one computer: configuration, ledger, engines, lifecycle.
pub mod config;
pub mod engine;
pub mod ledger;
