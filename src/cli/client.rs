//! The client of the hub's API, as subcommands use it.

pub(super) use crate::remote::{Client, Error, Refused, TABLE};

/// The hub's refusal, if `error` is one.
pub(super) fn refusal(error: &anyhow::Error) -> Option<&Refused> {
    match error.downcast_ref::<Error>() {
        Some(Error::Refused(refused)) => Some(refused),
        _ => None,
    }
}
