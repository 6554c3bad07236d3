//! Checkpoints as files: `GET …/checkpoints/NAME/export` and `POST …/checkpoints/NAME/import`; and in other pools: `POST` of both, with
//! `toPool` and `fromPool`.
//!
//! A file is a stream between the client and `zfs` on a node: nothing is kept here but a piece of it. All need the drivers of the
//! controllers, so they are answered by the server in whose process those lead; another says which process that is.

mod export;
mod from_pool;
mod import;
mod reader;
mod to_pool;

pub(super) use export::export;
pub(super) use from_pool::import_from_pool;
pub(super) use import::import;
pub(super) use to_pool::export_to_pool;

use super::{Shared, route::Target, status::Status};
use crate::admission;
use crate::api::{Checkpoint, Kind, SYSTEM_NAMESPACE};
use crate::driver::{self, Driver};
use crate::objects::leader;
use crate::zfs;
use sha2::{Digest, Sha256};
use std::fmt::Write;

pub(super) fn is_export(target: &Target) -> bool {
    is_part(target, "export")
}

pub(super) fn is_import(target: &Target) -> bool {
    is_part(target, "import")
}

fn is_part(target: &Target, part: &str) -> bool {
    target.entry.group == crate::api::GROUP
        && target.entry.plural == Checkpoint::PLURAL
        && target.name.is_some()
        && target.subresource.as_deref() == Some(part)
}

/// The Hubs that can be used, with their drivers. Errors: 503 where the controllers lead in another process.
async fn drivers(server: &Shared) -> Result<Vec<(String, Driver)>, Status> {
    if let Some(drivers) = server.door.drivers().await {
        return Ok(drivers);
    }
    let leases = admission::named("coordination.k8s.io", "leases").ok_or_else(Status::no_path)?;
    let lease = server.objects.read(leases, SYSTEM_NAMESPACE, leader::LEASE).await.unwrap_or_default();
    let holder = lease["spec"]["holderIdentity"].as_str().filter(|holder| !holder.is_empty()).unwrap_or("none yet");
    Err(Status::new(
        503,
        "ServiceUnavailable",
        format!(
            "disks are exported and imported by the server in whose process the controllers lead, and that is not this one; it is \
             {holder}: ask that server (autovibe up without --no-controllers)"
        ),
    ))
}

/// What the storage said of an object, as an answer.
fn refused(what: &str, error: &driver::Error) -> Status {
    use driver::Error;
    let (code, reason, remedy) = match error {
        Error::Zfs(zfs::Error::OutOfSpace(_)) => (507, "InsufficientStorage", "; make room in the pool, or name another node"),
        Error::Zfs(zfs::Error::Exists(_)) | Error::Conflict(_) | Error::InUse(_) => (409, "Conflict", ""),
        Error::Missing(_) | Error::Settings(_) => (422, "Invalid", ""),
        Error::Zfs(zfs::Error::Other(_)) => (422, "Invalid", "; the stream is damaged, or of a ZFS whose streams this one does not read"),
        _ => (503, "ServiceUnavailable", "; try again"),
    };
    Status::new(code, reason, format!("{what}: {error}{remedy}"))
}

/// The sums of the entries of a file, as `sha256sum` writes them.
#[derive(Default)]
struct Sums(String);

impl Sums {
    fn add(&mut self, name: &str, bytes: &[u8]) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{}  {name}", hex::encode(Sha256::digest(bytes)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_storage_says_is_told_with_what_helps() {
        let cases = [
            (driver::Error::Zfs(zfs::Error::OutOfSpace("out of space".into())), 507, "make room in the pool"),
            (driver::Error::Zfs(zfs::Error::Exists("it exists".into())), 409, "it exists"),
            (driver::Error::Zfs(zfs::Error::Other("checksum mismatch".into())), 422, "the stream is damaged"),
            (driver::Error::Zfs(zfs::Error::Unavailable("no route".into())), 503, "try again"),
        ];
        for (error, code, part) in cases {
            let status = refused("checkpoint a is not imported", &error);
            let right =
                status.code == code && status.message.starts_with("checkpoint a is not imported: ") && status.message.contains(part);
            assert!(right, "{error:?}: {} {}", status.code, status.message);
        }
    }
}
