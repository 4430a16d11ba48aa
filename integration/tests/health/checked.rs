//! Checks through a whole agent.
