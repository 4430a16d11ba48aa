//! How far the store has been followed.
