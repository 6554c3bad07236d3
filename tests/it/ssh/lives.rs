//! Whole lives through a real sshd: the driver's verbs, and Machines of a Hub whose spec says how its node is reached.

use super::{UID, arguments, node, sshd::Sshd};
use crate::machine::stage::{Stage, status};
use autovibe::{
    api::machine::Phase,
    driver::{Connection, Driver},
    lab::Lab,
    proxmox::Vmid,
    zfs::Runner,
};
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{net::SocketAddr, sync::Arc};
use tokio::net::{TcpListener, TcpStream};

async fn driver(lab: &Lab, runner: Runner) -> Driver {
    Driver::open(Connection { runner, ..Connection::of_lab(lab.endpoint()) }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_live_and_end_on_a_node_far_away() {
    let Some(node) = node("disks_live_and_end_on_a_node_far_away").await else { return };
    let driver = driver(&node.lab, node.sshd.runner()).await;
    let (vmid, other) = (Vmid(1000), "5f0c7d1e-1111-4222-8333-444455556667");
    // The image lies on the hub, and is sent.
    let file = node.dir.path().join("image.raw");
    let image: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    std::fs::write(&file, &image).unwrap();
    let base = driver.import_image(&file, "debian").await.unwrap();
    let zvol = node.lab.endpoint().zfs_socket.as_ref().unwrap().with_file_name("zvol").join(&base.snapshot.dataset.0);
    assert!(std::fs::read(zvol).unwrap().starts_with(&image), "the image did not come whole");
    assert_eq!(driver.import_image(&file, "debian").await.unwrap(), base);
    let disk = driver.fork(&base.snapshot, &base.guid, UID, vmid, 0).await.unwrap();
    let volume = driver.capture(std::slice::from_ref(&disk), "C", UID).await.unwrap().remove(0);
    assert_eq!(driver.capture(std::slice::from_ref(&disk), "C", UID).await.unwrap(), std::slice::from_ref(&volume));
    let kept = driver.keep(UID, &[disk]).await.unwrap();
    assert_eq!(kept, [driver.kept(UID, 0)]);
    let source = driver.locate(&volume, Some(UID)).await.unwrap().unwrap();
    let fork = driver.fork(&source, &volume.guid, other, Vmid(1001), 0).await.unwrap();
    assert!(driver.collect(&volume, "C", UID).await.is_err(), "it has a clone");
    assert_eq!(driver.destroy_disks(other, Vmid(1001)).await.unwrap().destroyed, [fork]);
    let collected = driver.collect(&volume, "C", UID).await.unwrap();
    assert_eq!((collected.snapshot, collected.disk), (Some(source), Some(driver.kept(UID, 0))));
    assert_eq!(node.lab.datasets().iter().filter(|name| name.contains(UID) || name.contains("vm-")).count(), 0);
}

/// TLS before the lab, as Proxmox has it; gives its address and the fingerprint.
pub(crate) async fn tls(lab: &Lab) -> (SocketAddr, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
    let digest = Sha256::digest(certificate.der()).iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":");
    let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate.der().clone()], private).unwrap();
    let (acceptor, listener) = (tokio_rustls::TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let (address, behind) = (listener.local_addr().unwrap(), lab.address());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut near = acceptor.accept(stream).await.ok()?;
                let mut far = TcpStream::connect(behind).await.ok()?;
                tokio::io::copy_bidirectional(&mut near, &mut far).await.ok()
            });
        }
    });
    (address, digest)
}

/// The lab as a node whose `zfs` is run by SSH, with the secrets that it takes.
pub(super) async fn infrastructure(stage: &Stage, sshd: &Sshd, dataset: &str, keep: &str) -> Value {
    let (endpoint, fingerprint) = tls(&stage.lab).await;
    let at = stage.lab.endpoint();
    stage.create_secret("pve", &[("tokenId", &at.token_id), ("secret", &at.secret)]).await;
    stage.create_secret("node", &[("ssh-privatekey", sshd.key())]).await;
    json!({
        "proxmox": {
            "endpoint": format!("https://{endpoint}"), "fingerprint": fingerprint, "tokenSecretRef": { "name": "pve" }, "node": at.node,
            "vmids": { "from": at.vmid_from, "to": at.vmid_to }, "bridge": at.bridge,
        },
        "zfs": {
            "storage": at.storage, "dataset": dataset, "keep": keep,
            "runner": { "ssh": {
                "host": "127.0.0.1", "port": sshd.port, "user": sshd.user(), "hostKey": sshd.host_key.trim(),
                "keySecretRef": { "name": "node" },
            } },
        },
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_of_a_hub_on_another_machine_live_and_end() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let mut stage = Stage::without_hub().await;
    let Some(sshd) = Sshd::start("machines_of_a_hub_on_another_machine_live_and_end", &arguments(&stage.lab)) else { return };
    let at = stage.lab.endpoint().clone();
    let infrastructure = infrastructure(&stage, &sshd, &at.dataset, &at.keep).await;
    stage.create_hub(infrastructure, Some(&at.gateway_url)).await;
    let agent = json!({ "type": "ClaudeCode", "model": "claude-sonnet-4-5" });
    stage.create("a", json!({ "goal": { "prompt": "work" }, "agent": agent })).await;
    stage.create("b", json!({ "from": null, "goal": { "prompt": "work", "after": ["a"] }, "agent": agent })).await;
    for name in ["a", "b"] {
        let machine = stage.until_finished(name).await;
        assert_eq!(status(&machine).phase, Phase::Succeeded, "{:?}", status(&machine));
        stage.assert_ended_well(&machine).await;
    }
    stage.stop().await;
    assert!(sshd.log().contains("Accepted publickey"));
    let left = std::fs::read_dir(stage.data().join("ssh")).unwrap().count();
    assert_eq!(left, 0, "a key was left");
}
