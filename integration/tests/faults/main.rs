//! What goes wrong around the agent: it is noticed, said, and repaired where that is the agent's to do.
//! `make faults` runs the long ones for as long as they are meant to be.

mod self_test;
