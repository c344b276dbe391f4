//! Small messages of a thread's tasks, which are sent one after the other when these have run.
//!
//! A send costs less behind another one than between other work: its code and the system's are in
//! the caches, and the peers wake while the thread goes on. It is for threads with a runtime of
//! their own, such as the gateway's workers.
//!
//! It must not know what a message means, or what happens to it when it is lost.

mod outgoing;
mod queue;
mod socket;

pub use outgoing::MAX_QUEUED_BYTES;
pub use queue::SendQueue;
pub use socket::QueuedSocket;

#[cfg(test)]
mod tests;
