//! Leases of VM ids: taken before the first call to Proxmox, ended when nothing of that number is left.

use super::{Error, Store, Transaction, connection::query};

/// One lease.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VmidLease {
    pub vmid: u32,
    pub machine_uid: String,
}

impl Store {
    /// Every lease on a Hub, by VMID.
    pub async fn vmid_leases(&self, hub: &str) -> Result<Vec<VmidLease>, Error> {
        let mut reader = self.reader().await?;
        let rows: Vec<(i64, String)> = query("SELECT vmid, machine_uid FROM vmid_leases WHERE hub = $1 ORDER BY vmid")
            .bind(hub)
            .fetch_all(reader.connection())
            .await?;
        rows.into_iter().map(|(vmid, machine_uid)| Ok(VmidLease { vmid: number(vmid)?, machine_uid })).collect()
    }
}

impl Store {
    /// The VMID that is leased to a Machine on a Hub.
    pub async fn vmid_lease(&self, hub: &str, machine_uid: &str) -> Result<Option<u32>, Error> {
        let mut reader = self.reader().await?;
        let row: Option<(i64,)> = query("SELECT vmid FROM vmid_leases WHERE hub = $1 AND machine_uid = $2")
            .bind(hub)
            .bind(machine_uid)
            .fetch_optional(reader.connection())
            .await?;
        row.map(|(vmid,)| number(vmid)).transpose()
    }
}

impl Transaction<'_> {
    /// The Machine's lease on this Hub: the one it has, else the lowest of `range` (both ends included) that is neither leased
    /// nor in `taken`; `None` when there is none left. `taken` are the ids that are seen in use, by a config or a dataset's name.
    pub async fn lease_vmid(&mut self, hub: &str, machine_uid: &str, range: (u32, u32), taken: &[u32]) -> Result<Option<u32>, Error> {
        let own: Option<(i64,)> = query("SELECT vmid FROM vmid_leases WHERE hub = $1 AND machine_uid = $2")
            .bind(hub)
            .bind(machine_uid)
            .fetch_optional(self.connection())
            .await?;
        if let Some((vmid,)) = own {
            return number(vmid).map(Some);
        }
        let leased: Vec<(i64,)> = query("SELECT vmid FROM vmid_leases WHERE hub = $1 AND vmid BETWEEN $2 AND $3")
            .bind(hub)
            .bind(range.0)
            .bind(range.1)
            .fetch_all(self.connection())
            .await?;
        let used: std::collections::BTreeSet<u32> =
            leased.into_iter().filter_map(|(vmid,)| vmid.try_into().ok()).chain(taken.iter().copied()).collect();
        let Some(vmid) = (range.0..=range.1).find(|vmid| !used.contains(vmid)) else { return Ok(None) };
        query("INSERT INTO vmid_leases (hub, vmid, machine_uid) VALUES ($1, $2, $3)")
            .bind(hub)
            .bind(vmid)
            .bind(machine_uid)
            .execute(self.connection())
            .await?;
        Ok(Some(vmid))
    }

    /// Ends the Machine's lease on this Hub; fine when it has none. Only when, in one pass, the VM's config was seen gone and
    /// no dataset of that number was there.
    pub async fn end_vmid_lease(&mut self, hub: &str, machine_uid: &str) -> Result<(), Error> {
        query("DELETE FROM vmid_leases WHERE hub = $1 AND machine_uid = $2").bind(hub).bind(machine_uid).execute(self.connection()).await?;
        Ok(())
    }
}

fn number(vmid: i64) -> Result<u32, Error> {
    vmid.try_into().map_err(|_| Error::Corrupt(format!("{vmid} is leased, and is no VM id")))
}
