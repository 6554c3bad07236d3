//! Which addresses a name may lead to: public ones, and those that the Hub opens; never by chance the hub or its Proxmox.

use crate::api::Hub;
use ipnet::{IpNet, Ipv6Net};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    sync::LazyLock,
};

/// Not public. Source: IANA special-purpose address registries for IPv4 and IPv6; the last of IPv4 is Azure's service of its VMs.
const SPECIAL: &str = "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 \
                       192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4 \
                       168.63.129.16/32 2001::/23 2001:db8::/32 2002::/16 3fff::/20";
/// All that is global of IPv6 is in here.
const GLOBAL: &str = "2000::/3";
/// An address of IPv4 behind a translator. Source: RFC 6052, 2.1.
const TRANSLATED: &str = "64:ff9b::/96";

static SPECIAL_NETS: LazyLock<Vec<IpNet>> =
    LazyLock::new(|| SPECIAL.split_ascii_whitespace().map(|net| net.parse().expect("a constant, which a test reads")).collect());
static GLOBAL_NET: LazyLock<Ipv6Net> = LazyLock::new(|| GLOBAL.parse().expect("a constant, which a test reads"));
static TRANSLATED_NET: LazyLock<Ipv6Net> = LazyLock::new(|| TRANSLATED.parse().expect("a constant, which a test reads"));

/// Whether a connection may be made to an address, which is in canonical form. `ours` are what the Hub runs on.
pub(super) fn is_open(address: IpAddr, opened: &[IpNet], ours: &[IpAddr]) -> bool {
    if opened.contains(&IpNet::from(address)) {
        return true;
    }
    if ours.contains(&address) || is_of_this_machine(address) {
        return false;
    }
    is_public(address) || opened.iter().any(|network| network.contains(&address))
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V6(six) if TRANSLATED_NET.contains(&six) => {
            let [.., a, b, c, d] = six.octets();
            is_public(Ipv4Addr::new(a, b, c, d).into())
        }
        IpAddr::V6(six) if !GLOBAL_NET.contains(&six) => false,
        _ => !SPECIAL_NETS.iter().any(|network| network.contains(&address)),
    }
}

/// Whether it is one of this machine: from there alone is it reached by itself. Nothing is sent.
fn is_of_this_machine(address: IpAddr) -> bool {
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let from = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((address, 9))?;
        socket.local_addr()
    });
    from.is_ok_and(|from| from.ip() == address)
}

/// Names or addresses of what a Hub runs on: its gateway, as guests see it, its Proxmox, and the nodes that it reaches.
pub(super) fn of_hub(hub: &Hub) -> Vec<String> {
    let of_url = |url: &str| Some(url::Url::parse(url).ok()?.host_str()?.trim_start_matches('[').trim_end_matches(']').to_owned());
    let infrastructure = &hub.spec.infrastructure;
    let gateway = hub.spec.gateway.as_ref().and_then(|gateway| of_url(&gateway.url));
    let proxmox = infrastructure.proxmox.as_ref().and_then(|proxmox| of_url(&proxmox.endpoint));
    let runners = infrastructure.nodes.iter().map(|node| &node.runner).chain(infrastructure.zfs.iter().map(|zfs| &zfs.runner));
    let nodes = runners.filter_map(|runner| Some(runner.ssh.as_ref()?.host.clone()));
    gateway.into_iter().chain(proxmox).chain(nodes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(address: &str, opened: &[&str], ours: &[&str]) -> bool {
        let opened: Vec<IpNet> = opened.iter().map(|net| net.parse().unwrap()).collect();
        let ours: Vec<IpAddr> = ours.iter().map(|address| address.parse().unwrap()).collect();
        is_open(address.parse::<IpAddr>().unwrap().to_canonical(), &opened, &ours)
    }

    #[test]
    fn public_addresses_are_open_and_no_others() {
        for address in ["1.1.1.1", "151.101.0.223", "2a04:4e42::223", "64:ff9b::1.1.1.1", "::ffff:1.1.1.1"] {
            assert!(open(address, &[], &[]), "{address}");
        }
        for address in "0.0.0.0 10.1.2.3 100.64.0.1 100.100.100.200 127.0.0.1 127.8.8.8 169.254.169.254 172.31.0.1 192.0.0.1 192.168.1.1 \
                        198.18.0.1 203.0.113.5 224.0.0.1 255.255.255.255 168.63.129.16 :: ::1 fe80::1 fec0::1 fd00:ec2::254 fc00::1 ff02::1 \
                        2001::1 2001:db8::1 2002:0a00:0001:: 64:ff9b::10.0.0.1 64:ff9b::169.254.169.254 ::ffff:127.0.0.1 ::127.0.0.1"
            .split_ascii_whitespace()
        {
            assert!(!open(address, &[], &[]), "{address}");
        }
    }

    #[test]
    fn the_hub_opens_networks_and_its_own_addresses_one_by_one() {
        assert!(open("10.1.2.3", &["10.0.0.0/8"], &[]) && !open("10.1.2.3", &["10.2.0.0/16"], &[]));
        assert!(!open("10.1.2.3", &["10.0.0.0/8"], &["10.1.2.3"]), "Proxmox in the network that was opened");
        assert!(open("10.1.2.3", &["10.1.2.3/32"], &["10.1.2.3"]));
        assert!(!open("1.1.1.1", &[], &["1.1.1.1"]), "a public address of ours");
        assert!(!open("127.0.0.1", &["127.0.0.0/8"], &[]) && open("127.0.0.1", &["127.0.0.1/32"], &[]));
    }

    #[test]
    fn what_a_hub_runs_on_is_known_by_its_spec() {
        let spec = serde_json::json!({
            "gateway": {"url": "http://10.10.0.1:8081"},
            "infrastructure": {
                "proxmox": {"endpoint": "https://[fd00::5]:8006", "tokenSecretRef": {"name": "p"}, "vmids": {"from": 100, "to": 200}},
                "zfs": {"storage": "s", "dataset": "d", "keep": "d/k", "runner": {"ssh": {"host": "pve1.example", "hostKey": "k", "keySecretRef": {"name": "k"}}}},
            },
        });
        let hub = Hub::new("", "h", serde_json::from_value(spec).unwrap());
        assert_eq!(of_hub(&hub), ["10.10.0.1", "fd00::5", "pve1.example"]);
    }
}
