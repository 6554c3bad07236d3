//! Budget decisions inside the store's transactions.
