//! What operators say of backends.
