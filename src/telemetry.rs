//! Logs: one subscriber, set up once.
