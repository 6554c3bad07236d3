//! The file that a Checkpoint is exported to: an uncompressed tar of ustar, so that any tool opens it.
//!
//! `manifest.json` comes first, then `workspace.bundle` where the workspace was kept, then each disk's `zfs send` in pieces,
//! `disk-N/NNNNNNNN.zfs`, and `SHA256SUMS` last. A tar says the size of each entry before it, and the size of a stream is known
//! when it ends: hence pieces. Without the sums at its end a file is not whole. `tar -xf FILE && sha256sum -c SHA256SUMS` checks
//! it, and `cat disk-0/* | zfs receive DATASET` reads it, without autovibe.

use crate::api::checkpoint::{Ancestor, Digest, Reason, Session, Trigger};
use crate::api::machine::Goal;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Serialize};

/// The first format.
pub const FORMAT: u32 = 1;
pub const MANIFEST: &str = "manifest.json";
pub const BUNDLE: &str = "workspace.bundle";
pub const SUMS: &str = "SHA256SUMS";
/// Bytes of a piece of a stream; its last one has fewer.
pub const PIECE: usize = 4 << 20;
/// No manifest is larger.
pub const MAX_MANIFEST: u64 = 4 << 20;
/// No list of sums is larger: pieces of some 50 TB.
pub const MAX_SUMS: u64 = 1 << 30;
/// Bytes of a tar's block.
pub const BLOCK: usize = 512;

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// See [`FORMAT`].
    pub format_version: u32,
    /// Version of the autovibe that wrote it.
    pub autovibe: String,
    /// Id of the installation that exported it.
    pub installation: String,
    pub checkpoint: Exported,
    /// The Checkpoint that the streams build on; without it they stand alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Since>,
    pub disks: Vec<Disk>,
    /// Commit of the workspace in its bundle, which holds all that came before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
}

/// An exported Checkpoint. What may hold a secret (environments, annotations) is none of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exported {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub trigger: Trigger,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// The CLI that its agent runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal: Option<String>,
    /// Directory that its agent worked in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<Reason>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Session>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiescent: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captured_at: Option<Time>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub digests: Vec<Digest>,
    /// What led to it, nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ancestors: Vec<Ancestor>,
}

/// What an incremental file builds on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Since {
    pub name: String,
    pub uid: String,
}

/// A disk's snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    /// The snapshot's short name.
    pub snapshot: String,
    /// Decimal.
    pub guid: String,
    /// Guid of the snapshot that its stream builds on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Whether it is a volume; else a file system with `disk.raw`, as zfs-fuse has it.
    pub volume: bool,
    /// Bytes that it refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub referenced: Option<u64>,
}

pub fn piece_name(disk: usize, piece: usize) -> String {
    format!("disk-{disk}/{piece:08}.zfs")
}

/// The header of an entry. Source: POSIX.1-1988 ustar.
pub fn header(name: &str, size: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644");
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{size:011o}"));
    put(136, "00000000000");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar");
    put(263, "00");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    let sum = format!("{sum:06o}\0 ");
    block[148..156].copy_from_slice(sum.as_bytes());
    block
}

/// Zeros behind an entry of this size.
pub fn padding(size: u64) -> usize {
    let block = BLOCK as u64;
    usize::try_from((block - size % block) % block).unwrap_or_default()
}

/// Name and size of the entry behind a header; `None` at the end, which is a block of zeros. Errors: words for people.
pub fn read_header(block: &[u8; BLOCK]) -> Result<Option<(String, u64)>, String> {
    if block.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let text = |from: usize, to: usize| {
        let field = &block[from..to];
        let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
        std::str::from_utf8(&field[..end]).map(str::trim).map_err(|_| "it is no tar of autovibe's".to_owned())
    };
    let number = |from, to| u64::from_str_radix(text(from, to)?, 8).map_err(|_| "it is no tar of autovibe's".to_owned());
    if &block[257..262] != b"ustar" {
        return Err("it is no tar of autovibe's".into());
    }
    let sum: u64 = block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) }).sum();
    if number(148, 156)? != sum || !matches!(block[156], b'0' | 0) {
        return Err("an entry's header is damaged".into());
    }
    Ok(Some((text(0, 100)?.to_owned(), number(124, 136)?)))
}

impl Manifest {
    /// Reads the first entry of a file. Errors: words for people.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Version {
            format_version: u32,
            #[serde(default)]
            autovibe: String,
        }
        let version: Version = serde_json::from_slice(bytes).map_err(|error| format!("{MANIFEST}: {error}"))?;
        if version.format_version != FORMAT {
            let (theirs, by) = (version.format_version, version.autovibe.escape_debug().to_string());
            return Err(format!(
                "{MANIFEST}: formatVersion is {theirs}, written by autovibe {by}; this one reads {FORMAT}: use that version here, or export again"
            ));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| format!("{MANIFEST}: {error}"))?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        let field = |name: &str, what: &str| Err(format!("{MANIFEST}: {name}: {what}"));
        if self.disks.is_empty() || self.disks.len() > 64 {
            return field("disks", "there must be 1 to 64");
        }
        for (index, disk) in self.disks.iter().enumerate() {
            let legal = disk.snapshot.len() <= 100 && disk.snapshot.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:".contains(c));
            if !legal || !disk.snapshot.starts_with(|c: char| c.is_ascii_alphanumeric()) {
                return field(&format!("disks[{index}].snapshot"), "is no name of a snapshot");
            }
            if disk.guid.parse::<u64>().is_err() {
                return field(&format!("disks[{index}].guid"), "is no decimal number");
            }
            if disk.since.is_some() != self.since.is_some() {
                return field(&format!("disks[{index}].since"), "does not go with since");
            }
        }
        let hex = |commit: &String| commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !self.workspace.as_ref().is_none_or(hex) {
            return field("workspace", "is no commit of 40 hexadecimal digits");
        }
        if !self.checkpoint.directory.as_deref().is_none_or(Goal::is_workspace) {
            return field("checkpoint.directory", "is no absolute path without `..`");
        }
        if self.checkpoint.name.is_empty() || self.checkpoint.uid.is_empty() {
            return field("checkpoint", "has no name or uid");
        }
        Ok(())
    }
}

/// What the first record of a stream of `zfs send` says. Source: OpenZFS sys/zfs_ioctl.h, `dmu_replay_record` with `drr_begin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Several snapshots, properties and children: what `-R` and `-p` send.
    pub compound: bool,
    pub guid: u64,
    /// Guid of the snapshot that it builds on.
    pub since: Option<u64>,
    pub volume: bool,
    /// Name of the snapshot where it was sent.
    pub name: String,
}

impl Begin {
    const MAGIC: u64 = 0x0002_F5BA_CBAC;
    const LENGTH: usize = 312;

    /// `None` when it is no stream of ZFS.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let record = bytes.get(..Self::LENGTH)?;
        let eight = |at: usize| record[at..at + 8].try_into().unwrap_or_default();
        let swapped = match (u64::from_le_bytes(eight(8)), u64::from_be_bytes(eight(8))) {
            (Self::MAGIC, _) => false,
            (_, Self::MAGIC) => true,
            _ => return None,
        };
        let number = |at: usize| if swapped { u64::from_be_bytes(eight(at)) } else { u64::from_le_bytes(eight(at)) };
        let four = |at: usize| record[at..at + 4].try_into().unwrap_or_default();
        let kind = if swapped { u32::from_be_bytes(four(32)) } else { u32::from_le_bytes(four(32)) };
        let name = &record[56..Self::LENGTH];
        let name = &name[..name.iter().position(|byte| *byte == 0).unwrap_or(name.len())];
        Some(Self {
            // The low two bits of the version's word: 1 is a substream, 2 a compound one.
            compound: number(16) & 3 != 1,
            guid: number(40),
            since: Some(number(48)).filter(|guid| *guid != 0),
            // Source: dmu.h, DMU_OST_ZFS 2, DMU_OST_ZVOL 3.
            volume: kind == 3,
            name: String::from_utf8_lossy(name).into_owned(),
        })
    }

    /// What about it is not what the manifest says.
    pub fn differs(&self, disk: &Disk) -> Option<String> {
        let since = disk.since.as_ref().and_then(|guid| guid.parse().ok());
        let short = self.name.rsplit_once('@').map_or("", |(_, short)| short);
        if self.compound {
            Some("is one of `zfs send -R` or `-p`, which sets properties; only plain ones are taken".into())
        } else if self.guid.to_string() != disk.guid {
            Some(format!("has guid {}, and the manifest says {}", self.guid, disk.guid))
        } else if self.since != since {
            Some("builds on another snapshot than the manifest says".into())
        } else if self.volume != disk.volume || short != disk.snapshot {
            Some("is of another disk than the manifest says".into())
        } else {
            None
        }
    }
}
