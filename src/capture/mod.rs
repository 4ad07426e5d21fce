//! What the crash kernel does with the old memory: find the target, save in the right order, say how it went.
//!
//! `config` says what is wanted, `modules` and `device` make the target appear, `run` strings the stages together,
//! `again` says what is tried when the saver dies, `summary` leaves the outcome beside the dump, `progress` tells the supervisor that the saver still moves,
//! `actions` ends the machine. `init` decides when each stage runs and how long it may take.

pub mod actions;
pub mod again;
pub mod config;
pub mod device;
pub mod modules;
pub mod progress;
pub mod run;
pub mod summary;
