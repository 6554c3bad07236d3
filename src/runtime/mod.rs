//! Work queue, backoff, Seen<T>.
