//! A Proxmox-compatible node.
