//! The observed Proxmox and ZFS of a Hub, cached, with its age.
