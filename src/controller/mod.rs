//! Reconcilers, one folder a kind.
