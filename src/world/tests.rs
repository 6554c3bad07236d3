use super::*;

fn listed(vmids: &[u32]) -> BTreeMap<Vmid, VmSeen> {
    vmids.iter().map(|vmid| (Vmid(*vmid), VmSeen { node: Node("pve".into()), tags: Vec::new(), power: None, lock: None })).collect()
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
    let world = World::new(Client::new(config).unwrap(), Node("pve".into()));
    assert!(world.at_most(Duration::ZERO).await.is_err());
    let after_first = calls.load(std::sync::atomic::Ordering::SeqCst);
    assert!(world.at_most(Duration::ZERO).await.is_err());
    assert_eq!(calls.load(std::sync::atomic::Ordering::SeqCst), after_first);
}
