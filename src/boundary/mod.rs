//! A conversation and its boundaries.
