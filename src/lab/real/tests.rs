//! Tables: a VM config as QEMU's arguments, what a pool cache names.

use super::{arguments, pool};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn devices(config: &[(&str, &str)]) -> Result<String, String> {
    let config: BTreeMap<String, String> = config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let disks = [PathBuf::from("/pool/a,b/disk.raw")];
    let forward = arguments::Forward { program: PathBuf::from("/opt/it's/autovibe"), file: PathBuf::from("/data/gateway") };
    arguments::devices(100, &config, &disks, Path::new("/data/vms/100"), &forward).map(|words| words.join(" ")).map_err(|e| e.to_string())
}

#[test]
fn a_config_becomes_devices() {
    let line = devices(&[
        ("name", "a"),
        ("memory", "1024"),
        ("cores", "2"),
        ("agent", "enabled=1"),
        ("scsihw", "virtio-scsi-single"),
        ("scsi0", "local:vm-100-disk-0,size=1G"),
        ("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr0"),
        ("boot", "order=scsi0"),
        ("serial0", "socket"),
        ("smbios1", "uuid=0b6d1f4e-0000-4000-8000-000000000001"),
        ("tags", "autovibe"),
    ])
    .unwrap();
    for part in [
        "-m 1024",
        "-smp 2,sockets=1",
        "uuid=0b6d1f4e-0000-4000-8000-000000000001",
        "file=/pool/a,,b/disk.raw,format=raw,cache=writeback",
        "scsi-hd,bus=virtioscsi0.0,scsi-id=0,drive=drive-scsi0,id=scsi0,bootindex=100",
        "name=org.qemu.guest_agent.0",
        r"restrict=on,ipv6=off,guestfwd=tcp:10.0.2.100:8081-cmd:'/opt/it'\''s/autovibe' lab forward '/data/gateway'",
        "mac=BC:24:11:00:00:01",
    ] {
        assert!(line.contains(part), "{part} is not in: {line}");
    }
}

#[test]
fn what_the_lab_cannot_give_is_refused() {
    assert_eq!(devices(&[("hostpci0", "01:00")]).unwrap_err(), "the lab has no hostpci0: remove it from the config of VM 100");
    assert_eq!(devices(&[("scsi1", "local:vm-100-disk-1")]).unwrap_err(), "scsi1 has no disk");
    assert!(devices(&[("scsihw", "lsi")]).is_err());
    assert!(devices(&[("cores", "many")]).is_err());
}

#[test]
fn without_an_agent_there_is_no_port() {
    assert!(!devices(&[("agent", "enabled=0")]).unwrap().contains("guest_agent"));
}

#[test]
fn a_cache_shows_the_disks_of_its_pools() {
    let cache = b"\0\0\0\x04path\0\0\0\0\x16/var/lib/lab/pool.img\0\0\0\x07/a/b\0type\0";
    assert_eq!(pool::paths_in(cache), [PathBuf::from("/var/lib/lab/pool.img"), PathBuf::from("/a/b")]);
}
