//! One file per model provider: request shape, stream parser, usage, prices.
