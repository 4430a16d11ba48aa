//! Health: which of a service's backends get new connections, and why the others don't.
//!
//! Administrative state, active checks ([`tracker`]) and passive ones ([`ejection`]) come together in
//! one rule ([`effective`]); [`board`] keeps what is known. Pure; the tasks that probe are in `prober`.

pub mod board;
pub mod effective;
pub mod ejection;
mod lists;
pub mod prober;
pub mod tracker;
