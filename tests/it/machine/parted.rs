//! Controllers that are parted from the API, from Proxmox, or from both.

use super::elsewhere::leader;
use super::parts::{Parts, until};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf};
use tokio::sync::watch;

/// A way to a server.
pub(super) struct Network {
    pub(super) address: SocketAddr,
    target: Arc<Mutex<Option<SocketAddr>>>,
    way: watch::Sender<Way>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Whole,
    /// It takes what is sent and brings nothing to the other side.
    Parted,
    /// It ends what there is, and each new connection at once.
    Refuses,
}

impl Network {
    pub(super) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, target, way) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(None)), watch::Sender::new(Way::Whole));
        let (to, is) = (Arc::clone(&target), way.subscribe());
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let to: SocketAddr = to.lock().unwrap().expect("it leads somewhere");
                let mut is = is.clone();
                tokio::spawn(async move {
                    if *is.wait_for(|way| *way != Way::Parted).await.ok()? == Way::Refuses {
                        return None;
                    }
                    let far = TcpStream::connect(to).await.ok()?;
                    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                    tokio::select! {
                        () = carry(near_in, far_out, is.clone()) => {}
                        () = carry(far_in, near_out, is.clone()) => {}
                        _ = is.wait_for(|way| *way == Way::Refuses) => {}
                    }
                    Some(())
                });
            }
        });
        Self { address, target, way }
    }

    pub(super) fn lead_to(&self, target: SocketAddr) {
        *self.target.lock().unwrap() = Some(target);
    }
    pub(super) fn part(&self) {
        self.way.send_replace(Way::Parted);
    }
    pub(super) fn refuse(&self) {
        self.way.send_replace(Way::Refuses);
    }
    pub(super) fn heal(&self) {
        self.way.send_replace(Way::Whole);
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut is: watch::Receiver<Way>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if is.wait_for(|way| *way != Way::Parted).await.is_err() || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_controllers_that_are_parted_at_most_one_acts_and_without_a_lease_none() {
    let (proxmox, ways) = (Network::new().await, [Network::new().await, Network::new().await]);
    let parts = Parts::start(async |node| {
        proxmox.lead_to(node);
        proxmox.address
    })
    .await;
    ways.iter().for_each(|way| way.lead_to(parts.api_address()));
    let first = parts.controllers("first", Some(ways[0].address), "3s");
    parts.leads(&first).await;
    let second = parts.controllers("second", Some(ways[1].address), "3s");
    until("the second one stands by", || second.said("leads; standing by") > 0).await;

    // The leader is parted from the API: another acts, and it does not.
    parts.create("a").await;
    until("the life begins", || parts.lab.changes() > 2).await;
    ways[0].part();
    parts.leads(&second).await;
    until("the first one knows", || first.said("no longer leading") == 1).await;
    parts.ends_well("a").await;

    // Both are: nobody acts, and the API is read and written.
    let before = parts.lab.changes();
    parts.create("b").await;
    until("another life begins", || parts.lab.changes() > before + 2).await;
    ways[1].part();
    until("the second one knows", || second.said("no longer leading") == 1).await;
    let acted = parts.lab.changes();
    parts.create("c").await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(parts.lab.changes(), acted, "nobody acts without a Lease: {:?}", parts.lab.counts());
    assert_eq!(parts.get("machines", "c").await["metadata"]["name"], "c");
    ways.iter().for_each(Network::heal);
    parts.ends_well("b").await;
    parts.ends_well("c").await;

    // All are parted from Proxmox: who leads goes on leading, and acts again when it can.
    let led = leader(parts.data());
    proxmox.part();
    parts.create("d").await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(leader(parts.data()), led);
    assert!(!parts.is_finished("d").await);
    proxmox.heal();
    parts.ends_well("d").await;

    // From both: neither leads nor acts, and each goes on when it can.
    parts.create("e").await;
    ways.iter().for_each(Network::part);
    proxmox.part();
    let losses = first.said("no longer leading") + second.said("no longer leading");
    until("the lead is lost", || first.said("no longer leading") + second.said("no longer leading") > losses).await;
    let acted = parts.lab.changes();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(parts.lab.changes(), acted);
    proxmox.heal();
    ways[1].heal();
    parts.ends_well("e").await;
    parts.leads(&second).await;
}
