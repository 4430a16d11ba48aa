//! What people and programs see of the agent.

mod page;
mod top;
