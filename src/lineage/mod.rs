//! The graph of checkpoints, and what may be collected.
