//! A Proxmox VM config as QEMU's devices; pure. What the lab cannot give is refused, not left out.

use super::Error;
use crate::lab::guests::VmConfig;
use std::path::{Path, PathBuf};

/// The program that carries a guest's connection to the gateway.
pub(super) struct Forward {
    pub(super) program: PathBuf,
    pub(super) file: PathBuf,
}

/// Where guests find the gateway on QEMU's own network.
pub(super) const GATEWAY: &str = "10.0.2.100:8081";

/// The kernel's limit for the path of a unix socket, less its end.
const SOCKET_PATH: usize = 107;

/// Keys that say nothing to QEMU.
const SILENT: &[&str] = &[
    "name",
    "tags",
    "description",
    "protection",
    "onboot",
    "ostype",
    "digest",
    "meta",
    "vmgenid",
    "boot",
    "scsihw",
    "agent",
    "memory",
    "cores",
    "sockets",
    "balloon",
    "cpu",
    "smbios1",
    "template",
    "lock",
    "numa",
    "kvm",
    "machine",
    "vga",
    "tablet",
    "startup",
    "hotplug",
    "rng0",
    "vmstate",
    "runningmachine",
    "runningcpu",
];

/// The arguments for all but accelerator and pid file. `disks` are the files or volumes of `scsi0`, `scsi1`, … in this order.
///
/// Errors: `Config` for a key that the lab cannot give, or a drive without a path.
pub(super) fn devices(vmid: u32, config: &VmConfig, disks: &[PathBuf], directory: &Path, forward: &Forward) -> Result<Vec<String>, Error> {
    let get = |key: &str| config.get(key).map(String::as_str);
    let mut arguments: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| arguments.extend(words.iter().map(|word| (*word).to_owned()));
    let path = |name: &str| escape(&directory.join(name));
    if directory.join("serial0").as_os_str().len() > SOCKET_PATH {
        return Err(Error::Config(format!(
            "{} is too long a path for a socket: give the lab a shorter data directory",
            directory.display()
        )));
    }

    add(&["-name", &format!("{},debug-threads=on", get("name").map_or_else(|| format!("VM{vmid}"), |name| name.replace(',', ",,")))]);
    add(&["-no-user-config", "-nodefaults", "-display", "none", "-vga", "none"]);
    match get("machine").unwrap_or("pc") {
        machine if machine.starts_with("pc") => add(&["-machine", "pc"]),
        machine if machine.starts_with("q35") || machine.starts_with("pc-q35") => add(&["-machine", "q35"]),
        other => return Err(Error::Config(format!("machine {other} is not one that the lab has: use pc or q35"))),
    }
    let memory = get("memory").unwrap_or("512");
    add(&["-m", memory.strip_prefix("current=").unwrap_or(memory)]);
    let count = |key: &str| {
        get(key)
            .unwrap_or("1")
            .parse::<u32>()
            .map_err(|_| Error::Config(format!("{key} is not a number: {}", get(key).unwrap_or_default())))
    };
    add(&["-smp", &format!("{},sockets={}", count("cores")? * count("sockets")?, count("sockets")?)]);
    if let Some(uuid) = get("smbios1").and_then(|text| text.split(',').find_map(|part| part.strip_prefix("uuid="))) {
        add(&["-smbios", &format!("type=1,uuid={uuid}"), "-uuid", uuid]);
    }
    add(&["-rtc", "base=utc", "-qmp", &format!("unix:{},server=on,wait=off", path("qmp"))]);
    // The guest's console goes to a file, too, where its last words can be read.
    add(&[
        "-chardev",
        &format!("socket,id=serial0,path={},server=on,wait=off,logfile={},logappend=off", path("serial0"), path("console.log")),
    ]);
    add(&["-serial", "chardev:serial0"]);
    if get("agent").is_some_and(|agent| agent.split(',').any(|part| matches!(part, "1" | "enabled=1"))) {
        add(&["-chardev", &format!("socket,id=qga0,path={},server=on,wait=off", path("qga"))]);
        add(&["-device", "virtio-serial,id=qga0bus", "-device", "virtserialport,chardev=qga0,name=org.qemu.guest_agent.0"]);
    }

    let order: Vec<&str> =
        get("boot").and_then(|boot| boot.strip_prefix("order=")).map(|order| order.split(';').collect()).unwrap_or_default();
    let single = get("scsihw").is_some_and(|hardware| hardware == "virtio-scsi-single");
    match get("scsihw") {
        None | Some("virtio-scsi-pci" | "virtio-scsi-single") => {}
        Some(other) => return Err(Error::Config(format!("scsihw {other} is not one that the lab has: use virtio-scsi-single"))),
    }
    let mut shared_controller = false;
    for key in config.keys() {
        let (kind, index) = key.split_at(key.trim_end_matches(|c: char| c.is_ascii_digit()).len());
        let numbered = !index.is_empty();
        match kind {
            "scsi" if numbered => {
                let disk = index
                    .parse::<usize>()
                    .ok()
                    .and_then(|index| disks.get(index))
                    .ok_or_else(|| Error::Config(format!("{key} has no disk")))?;
                let boot = order.iter().position(|name| name == key).map(|at| format!(",bootindex={}", at + 100)).unwrap_or_default();
                add(&[
                    "-drive",
                    &format!(
                        "if=none,id=drive-{key},file={},format=raw,cache=writeback,aio=threads,discard=unmap,detect-zeroes=unmap",
                        escape(disk)
                    ),
                ]);
                let bus = if single { format!("virtioscsi{index}") } else { "scsihw0".to_owned() };
                if single || !shared_controller {
                    add(&["-device", &format!("virtio-scsi-pci,id={bus}")]);
                    shared_controller = true;
                }
                add(&[
                    "-device",
                    &format!("scsi-hd,bus={bus}.0,scsi-id={},drive=drive-{key},id={key}{boot}", if single { "0" } else { index }),
                ]);
            }
            "net" if numbered => add_network(&mut add, key, &config[key], forward),
            "serial" if index == "0" => {}
            "unused" if numbered => {}
            _ if SILENT.contains(&key.as_str()) => {}
            _ => return Err(Error::Config(format!("the lab has no {key}: remove it from the config of VM {vmid}"))),
        }
    }
    Ok(arguments)
}

/// A network card on QEMU's own network, of which the gateway is the only other host.
fn add_network(add: &mut impl FnMut(&[&str]), key: &str, value: &str, forward: &Forward) {
    let command = format!("{} lab forward {}", quote(&forward.program), quote(&forward.file)).replace(',', ",,");
    add(&["-netdev", &format!("user,id={key},restrict=on,ipv6=off,guestfwd=tcp:{GATEWAY}-cmd:{command}")]);
    let address = value.split(',').find_map(|part| part.strip_prefix("virtio=")).map(|mac| format!(",mac={mac}")).unwrap_or_default();
    // No ROM: this card is not booted from, and loading its code costs the BIOS time.
    add(&["-device", &format!("virtio-net-pci,netdev={key},id={key},romfile={address}")]);
}

/// A path in one of QEMU's comma-separated options.
fn escape(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// A path as one word of a command line that is split as a shell does.
pub(super) fn quote(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}
