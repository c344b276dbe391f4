//! What a node knows of other nodes, how calls and events are shared among them, and their faults.

mod delivery;
mod event_log;
mod events;
mod faults;
mod needs;
mod sharing;
mod starts;
mod test_mesh;
