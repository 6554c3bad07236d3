use super::super::vm::config_values;
use super::*;
use std::collections::BTreeMap;

const UID: &str = "6a1f0d6e-6c1b-4b8e-9a53-1f2f3a4b5c6d";

fn spec() -> VmSpec {
    VmSpec {
        vmid: Vmid(20001),
        machine_uid: UID.into(),
        namespace: "shop".into(),
        name: "add-tests".into(),
        installation: "i".into(),
        cores: 2,
        memory_mebibytes: 4096,
        first_disk: 0,
        disks: 2,
        template: None,
    }
}

fn check(change: impl Fn(&mut BTreeMap<String, String>), ours: bool) {
    let mut values = config_values(&spec(), "local-zfs", Some("virtio,bridge=vmbr0".into()));
    change(&mut values);
    let owner = owner(Vmid(20001), UID, &VmConfig { digest: "d".into(), values });
    assert_eq!(matches!(owner, Ok(Owner::Ours(_))), ours, "{owner:?}");
}

#[test]
fn a_vm_is_ours_only_if_both_marks_say_so() {
    check(|_| {}, true);
    check(|v| drop(v.insert("tags".into(), format!("aa;av-{UID};autovibe"))), true);
    check(|v| drop(v.insert("smbios1".into(), format!("base64=1,uuid={}", UID.to_uppercase()))), true);
    check(|v| drop(v.remove("tags")), false);
    check(|v| drop(v.remove("smbios1")), false);
    check(|v| drop(v.insert("tags".into(), format!("xav-{UID}"))), false);
    check(|v| drop(v.insert("smbios1".into(), "uuid=6a1f0d6e-6c1b-4b8e-9a53-000000000000".into())), false);
}

#[test]
fn one_that_lacks_but_its_tag_is_nobody_elses() {
    let whose = |tags: &str, smbios: &str| {
        let mut values = config_values(&spec(), "local-zfs", None);
        values.extend([("tags", tags), ("smbios1", smbios)].map(|(key, value)| (key.to_owned(), value.to_owned())));
        owner(Vmid(20001), UID, &VmConfig { digest: "d".into(), values })
    };
    let (uuid, theirs) = (format!("uuid={UID}"), "uuid=6a1f0d6e-6c1b-4b8e-9a53-000000000000");
    for tags in ["", "autovibe", "theirs"] {
        let said = whose(tags, &uuid).unwrap_err();
        assert!(matches!(&said, Error::Unknown(why) if why.contains(&format!("not the tag av-{UID}"))), "{said}");
        assert!(matches!(whose(tags, theirs), Ok(Owner::Other(_))), "{tags}");
    }
    assert!(matches!(whose(&format!("av-{UID}"), theirs), Ok(Owner::Other(_))));
}

#[test]
fn whose_a_vm_is_cannot_be_said_while_it_is_created() {
    let look = |values: &[(&str, &str)]| {
        let values = values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        owner(Vmid(20001), UID, &VmConfig { digest: "d".into(), values })
    };
    assert!(matches!(look(&[("lock", "create")]), Err(Error::Unknown(_))));
    // Marks or another lock say more.
    assert!(matches!(look(&[("lock", "create"), ("tags", "theirs")]), Ok(Owner::Other(_))));
    assert!(matches!(look(&[("lock", "create"), ("smbios1", "uuid=6a1f0d6e-6c1b-4b8e-9a53-000000000000")]), Ok(Owner::Other(_))));
    assert!(matches!(look(&[("lock", "clone")]), Err(Error::Unknown(_))));
    assert!(matches!(look(&[("lock", "backup")]), Ok(Owner::Other(_))));
    assert!(matches!(look(&[]), Ok(Owner::Other(_))));
}

#[test]
fn a_clone_that_was_just_made_is_known_by_all_that_came_with_its_call() {
    let whose = |vmid: u32, change: &[(&str, &str)]| {
        let about = about(&spec(), &[("clone", "20001")]);
        let made = [
            ("name", "add-tests"),
            ("description", about.as_str()),
            // Of its template, with what Proxmox gave it.
            ("tags", "autovibe;av-parent;avc-checkpoint"),
            ("smbios1", "uuid=6a1f0d6e-6c1b-4b8e-9a53-000000000000"),
            ("scsi0", "s:900/base-900-disk-0.qcow2/20001/vm-20001-disk-0.qcow2,size=4G"),
            ("ide2", "none,media=cdrom"),
        ];
        let mut values: BTreeMap<String, String> = made.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        values.extend(change.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        owner(Vmid(vmid), UID, &VmConfig { digest: "d".into(), values }).unwrap()
    };
    assert!(matches!(whose(20001, &[]), Owner::Ours(vm) if !vm.is_whole()));
    let none: &[(&str, &str)] = &[];
    for (vmid, change) in [
        (20002, none),
        (20001, &[("name", "other")]),
        (20001, &[("description", "")]),
        (20001, &[("template", "1")]),
        (20001, &[("scsi0", "s:base-900-disk-0/vm-20002-disk-0")]),
        (20001, &[("scsi0", "none")]),
        (20001, &[("scsi1", "s:vm-300-disk-0")]),
    ] {
        assert!(matches!(whose(vmid, change), Owner::Other(_)), "{vmid} {change:?}");
    }
}

#[test]
fn a_vm_names_its_machine_to_its_own_installation_alone() {
    let config = |change: &dyn Fn(&mut BTreeMap<String, String>)| {
        let mut values = config_values(&spec(), "local-zfs", Some("virtio,bridge=vmbr0".into()));
        change(&mut values);
        VmConfig { digest: "d".into(), values }
    };
    let found = bearer(Vmid(20001), "i", &config(&|_| {})).unwrap();
    assert_eq!((found.machine_uid.as_str(), found.namespace.as_str(), found.name.as_str()), (UID, "shop", "add-tests"));
    assert_eq!(bearer(Vmid(20001), "another", &config(&|_| {})), None);
    // A note that was copied proves nothing.
    for mark in ["tags", "smbios1", "description"] {
        assert_eq!(bearer(Vmid(20001), "i", &config(&|values| drop(values.remove(mark)))), None, "{mark}");
    }
    assert_eq!(tagged(&["autovibe".into(), format!("av-{UID}")]), Some(UID));
}

#[test]
fn disks_carry_the_vmid_in_their_names() {
    let values = config_values(&spec(), "local-zfs", Some("virtio,bridge=vmbr7".into()));
    assert_eq!(values["scsi1"], "local-zfs:vm-20001-disk-1");
    assert_eq!(values["net0"], "virtio,bridge=vmbr7");
    assert!(!config_values(&spec(), "local-zfs", None).keys().any(|key| key.starts_with("net")));
    let about: serde_json::Value = serde_json::from_str(&values["description"]).unwrap();
    assert_eq!(about["autovibe"]["machine"], UID);
}
