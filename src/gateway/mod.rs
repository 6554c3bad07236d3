//! Authenticates, reserves, forwards, meters and settles model calls.
