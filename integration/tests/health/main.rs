//! Health in the real kernel: who gets new connections when backends fail, and what that costs the
//! callers until it is noticed.

mod removal;
mod storms;
