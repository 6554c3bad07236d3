use super::*;

use crate::proxmox::ResourceStorage;

fn listed(vmids: &[u32]) -> BTreeMap<Vmid, VmSeen> {
    vmids
        .iter()
        .map(|vmid| (Vmid(*vmid), VmSeen { node: Node("pve".into()), tags: Vec::new(), power: None, lock: None, memory_bytes: None }))
        .collect()
}

#[test]
fn an_empty_list_beside_running_vms_is_no_evidence() {
    let node = Node("pve".into());
    assert!(merge(listed(&[]), &[(Vmid(100), Power::Running)], &node).is_err());
    assert!(merge(listed(&[]), &[], &node).unwrap().is_empty());
}

#[test]
fn a_vm_that_one_list_shows_is_there() {
    let node = Node("pve".into());
    let merged = merge(listed(&[100, 101]), &[(Vmid(101), Power::Stopped), (Vmid(102), Power::Running)], &node).unwrap();
    let powers: Vec<_> = merged.iter().map(|(vmid, vm)| (vmid.0, vm.power)).collect();
    assert_eq!(powers, [(100, None), (101, Some(Power::Stopped)), (102, Some(Power::Running))]);
}

#[tokio::test]
async fn an_outage_is_unknown_and_asked_once_a_second() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let calls = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            drop(stream);
        }
    });
    let config = crate::proxmox::Config {
        endpoint: format!("http://{address}"),
        fingerprint: None,
        credential: crate::proxmox::Credential::token("root@pam!t", String::new()),
    };
    let world = World::new(Client::new(config).unwrap(), vec![Node("pve".into())]);
    assert!(world.at_most(Duration::ZERO).await.is_err());
    let after_first = calls.load(std::sync::atomic::Ordering::SeqCst);
    assert!(world.at_most(Duration::ZERO).await.is_err());
    assert_eq!(calls.load(std::sync::atomic::Ordering::SeqCst), after_first);
}

fn resources(vms: &[(u32, &str, &str)], nodes: &[(&str, bool)]) -> Resources {
    let vm = |(vmid, node, tag): &(u32, &str, &str)| crate::proxmox::ResourceVm {
        vmid: Vmid(*vmid),
        node: Node((*node).into()),
        name: None,
        status: Some("running".into()),
        lock: None,
        memory_bytes: Some(1 << 30),
        tags: vec![(*tag).into()],
    };
    let node = |(name, online): &(&str, bool)| {
        let node = Node((*name).into());
        crate::proxmox::ResourceNode { node, online: *online, memory_bytes: None, cores: None }
    };
    Resources {
        vms: vms.iter().map(vm).collect(),
        nodes: nodes.iter().map(node).collect(),
        storages: vec![ResourceStorage { node: Node("a".into()), storage: "tank".into(), room: None }],
    }
}

#[tokio::test]
async fn only_nodes_that_are_up_and_have_ours_are_asked() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let credential = crate::proxmox::Credential::token("root@pam!t", String::new());
    let config = crate::proxmox::Config { endpoint: "http://127.0.0.1:1".into(), fingerprint: None, credential };
    let client = Client::new(config).unwrap();
    let asked = |names: &[&str], resources: &Resources| {
        let world = World::new(client.clone(), names.iter().map(|name| Node((*name).into())).collect());
        let matters = world.nodes.iter().filter(|node| world.matters(node, resources)).map(|node| node.0.clone());
        matters.collect::<Vec<_>>().join(" ")
    };
    let all = [("a", true), ("b", true), ("c", false)];
    assert_eq!(asked(&["a", "b", "c"], &resources(&[(1, "a", "autovibe"), (2, "b", "theirs"), (3, "c", "autovibe")], &all)), "a");
    assert_eq!(asked(&["a", "b", "c"], &resources(&[], &all)), "a b", "the canary");
    assert_eq!(asked(&["c"], &resources(&[], &all)), "c", "the only one there is");
}

#[test]
fn nothing_is_said_of_a_node_that_is_down_or_did_not_answer() {
    let seen = resources(&[], &[("a", true), ("b", false), ("c", true)]);
    let silent = [(Node("c".into()), "no answer".to_owned())].into();
    let view = View { asked_at: Instant::now(), vms: BTreeMap::new(), nodes: nodes(seen), silent };
    let hidden = |name: &str| view.hidden(&Node(name.into()));
    assert_eq!((hidden("a"), hidden("b").as_deref(), hidden("c").as_deref()), (None, Some("node b is offline"), Some("no answer")));
    assert!(view.nodes[&Node("a".into())].storages.contains_key("tank"));
}
