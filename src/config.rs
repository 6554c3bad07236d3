//! Reads the environment once at start; nothing else does.
