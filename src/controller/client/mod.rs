//! All that controllers read and write: objects, and the rows that belong to them. In this process, or over another
//! server's API: the same calls, the same errors, the same admission.

mod records;
mod remote;

pub use remote::Remote;

use crate::api::Kind;
use crate::clock::{Clock, Tenure};
use crate::objects::{Error, EventType, Objects, Told};
use crate::store::Revision;
use futures::stream::BoxStream;
use secrecy::SecretString;
use serde_json::Value;

/// What controllers hold; cheap to clone.
#[derive(Clone)]
pub struct Client {
    via: Via,
    tenure: Tenure,
}

#[derive(Clone)]
enum Via {
    Local(Objects),
    Remote(Remote),
}

impl From<Objects> for Client {
    fn from(objects: Objects) -> Self {
        Self { via: Via::Local(objects), tenure: Tenure::unlimited() }
    }
}

impl From<Remote> for Client {
    fn from(remote: Remote) -> Self {
        Self { via: Via::Remote(remote), tenure: Tenure::unlimited() }
    }
}

/// The same call, whichever way.
macro_rules! via {
    ($client:ident, $way:ident => $call:expr) => {
        match &$client.via {
            Via::Local($way) => $call,
            Via::Remote($way) => $call,
        }
    };
}

impl Client {
    pub fn clock(&self) -> &Clock {
        via!(self, way => way.clock())
    }

    /// A leader's: all that is written is refused as `Fenced` once its `epoch` is over, and what it drives is changed only as
    /// long as `tenure` allows.
    #[must_use]
    pub fn under(&self, epoch: i64, tenure: Tenure) -> Self {
        let via = match &self.via {
            Via::Local(objects) => Via::Local(objects.under(epoch)),
            Via::Remote(remote) => Via::Remote(remote.under(epoch)),
        };
        Self { via, tenure }
    }

    /// How long Proxmox and ZFS may be changed; without a lead, always.
    pub fn tenure(&self) -> &Tenure {
        &self.tenure
    }

    /// The epoch under which is written; 0 when there is none.
    pub fn epoch(&self) -> i64 {
        match &self.via {
            Via::Local(objects) => objects.store().epoch(),
            Via::Remote(remote) => remote.epoch(),
        }
    }

    /// The object, or `None`; an error is never an absence.
    pub async fn get<K: Kind>(&self, namespace: &str, name: &str) -> Result<Option<K>, Error> {
        via!(self, way => way.get(namespace, name).await)
    }

    /// All of a kind (of one namespace), at one revision.
    pub async fn list<K: Kind>(&self, namespace: Option<&str>) -> Result<(Vec<K>, Revision), Error> {
        via!(self, way => way.list(namespace).await)
    }

    /// See [`Objects::list_where`].
    pub async fn list_where<K: Kind>(&self, namespace: &str, takes: impl Fn(&Value) -> bool) -> Result<Vec<K>, Error> {
        via!(self, way => way.list_where(namespace, takes).await)
    }

    /// See [`Objects::watch_listed`].
    pub fn watch_listed<K: Kind>(&self) -> BoxStream<'static, Told<K>> {
        via!(self, way => way.watch_listed())
    }

    /// See [`Objects::create`].
    pub async fn create<K: Kind>(&self, object: &K) -> Result<K, Error> {
        via!(self, way => way.create(object).await)
    }

    /// See [`Objects::update`].
    pub async fn update<K: Kind>(&self, object: &K) -> Result<K, Error> {
        via!(self, way => way.update(object).await)
    }

    /// See [`Objects::update_status`].
    pub async fn update_status<K: Kind>(&self, object: &K) -> Result<K, Error> {
        via!(self, way => way.update_status(object).await)
    }

    /// See [`Objects::delete`].
    pub async fn delete<K: Kind>(&self, namespace: &str, name: &str, uid: Option<&str>) -> Result<(), Error> {
        via!(self, way => way.delete::<K>(namespace, name, uid).await)
    }

    /// See [`Objects::secret`].
    pub async fn secret(&self, namespace: &str, name: &str, key: &str) -> Result<Option<SecretString>, Error> {
        via!(self, way => way.secret(namespace, name, key).await)
    }

    /// See [`Objects::record`].
    pub async fn record<K: Kind>(&self, about: &K, kind: EventType, reason: &str, message: &str) {
        via!(self, way => way.record(about, kind, reason, message).await);
    }
}
