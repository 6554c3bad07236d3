//! Proxmox and ZFS composed into what a Machine needs.
