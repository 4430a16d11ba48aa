//! Health in the real kernel: who gets new connections when backends fail, and what that costs the
//! callers until it is noticed.

mod checked;
mod probes;
mod programs;
mod removal;
mod secured;
mod steered;
mod storms;
mod trial;
