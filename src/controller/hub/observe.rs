//! Reads what a Hub's Proxmox and ZFS show; changes nothing.

use super::connection::{self, Waiting};
use super::nodes::{self, Low};
use super::unowned;
use crate::api::hub::{Audit, Lack, NodeStatus, UnownedVm, Verification};
use crate::api::{Hub, Kind};
use crate::controller::{Context, Error};
use crate::driver::{self, Driver, storage::Image};
use crate::proxmox::{self, Node, Vmid};
use crate::runtime::Seen;
use crate::store::ledger::Gap;
use crate::world::World;
use std::collections::BTreeMap;
use std::path::Path;

/// The connection of a Hub.
pub(super) enum State {
    /// Something that is needed for it is not given yet.
    Waiting(Waiting),
    /// It was tried, and did not come about.
    Unreachable(driver::Error),
    /// It stands; release of Proxmox, `Unknown` when it does not answer now.
    Open { version: Seen<String> },
    /// It stands, and Proxmox refuses its credential; says so, and what to do.
    Refused(String),
}

/// An open connection.
pub(super) struct Link {
    pub(super) driver: Driver,
    pub(super) world: World,
    /// Tells one connection from another.
    pub(super) identity: String,
}

/// What was seen.
pub(super) struct Observed {
    pub(super) state: State,
    /// There when `state` is `Open` or `Refused`.
    pub(super) link: Option<Link>,
    /// Image name → what is in the pool of it.
    pub(super) images: BTreeMap<String, Seen<Image>>,
    /// How each of several nodes stands; `None` when that was not seen.
    pub(super) nodes: Option<Vec<NodeStatus>>,
    /// The nodes whose storage is too full for new Machines; `None` when that was not seen.
    pub(super) low: Option<Vec<(Node, Low)>>,
    /// VMs of this installation that no Machine holds; `None` when that could not be seen.
    pub(super) unowned: Option<Vec<UnownedVm>>,
    /// What the token lacks; `None` when that was not looked at, or not seen.
    pub(super) lacking: Option<Vec<Lack>>,
    /// Whether rules that are made for VMs are in force; `None` when that could not be seen, or none are made.
    pub(super) firewall: Option<bool>,
    /// What an audit found, if one was due.
    pub(super) audit: Option<Audit>,
    /// What was asked for by schedule, if that was due.
    pub(super) verification: Option<Verification>,
    /// Since when the ledger may lack something.
    pub(super) gap: Option<Gap>,
    /// Providers without their key, in words.
    pub(super) keyless: Vec<String>,
}

impl Observed {
    /// Of one whose connection does not stand.
    pub(super) fn closed(state: State, gap: Option<Gap>) -> Self {
        Self {
            state,
            link: None,
            images: BTreeMap::new(),
            nodes: None,
            low: None,
            unowned: None,
            lacking: None,
            firewall: None,
            audit: None,
            verification: None,
            gap,
            keyless: Vec::new(),
        }
    }
}

pub(super) async fn observe(hub: &Hub, context: &Context) -> Result<Observed, Error> {
    let gap = context.objects.ledger_gap(hub.name()).await?;
    let connection = match connection::resolve(hub, context.config.lab.as_ref(), &context.objects, &context.config.data).await? {
        Ok(mut connection) => {
            connection.breaker = context.hubs.breaker(hub.name(), connection::credential(&connection)).await;
            if hub.spec.infrastructure.proxmox.is_some() {
                context.hubs.share_turns(&mut connection).await;
            }
            connection
        }
        Err(waiting) => return Ok(Observed::closed(State::Waiting(waiting), gap)),
    };
    let identity = connection::identity(&connection);
    let known = context.hubs.driver(hub.name(), &identity).await;
    // Looked at once for a connection, and as long as something was missing.
    let look = known.is_none() || hub.status.as_ref().is_some_and(|status| !status.lacking.is_empty());
    let (driver, world) = match known {
        Some(open) => open,
        None => match Driver::open(connection).await {
            Ok(driver) => {
                let world = World::new(driver.proxmox.clone(), driver.nodes().cloned().collect());
                (driver, world)
            }
            Err(error) => return Ok(Observed::closed(State::Unreachable(error), gap)),
        },
    };
    let version = driver.proxmox.version().await;
    let refused = match &version {
        Err(error @ proxmox::Error::Unauthorized { .. }) => Some(error.to_string()),
        _ => None,
    };
    let version = Seen::from_lookup(version.map(Some));
    let lacking = match version.present().filter(|_| look) {
        Some(version) => driver.lacking(version).await.ok(),
        None => None,
    };
    let firewall = match (&driver.connection().firewall, version.present()) {
        (Some(_), Some(_)) => driver.proxmox.firewall_is_on().await.ok(),
        _ => None,
    };
    let images = images(hub, &driver, &world, context).await;
    let nodes = nodes::look(&hub.spec.infrastructure, &driver, &world, context.config.resync).await;
    let low = nodes::all_low(&hub.spec.infrastructure, &driver, &world, context.config.resync).await;
    let link = Link { driver, world, identity };
    let unowned = unowned::unowned(hub, &link, context).await?;
    let state = refused.map_or(State::Open { version }, State::Refused);
    let link = Some(link);
    Ok(Observed { link, images, nodes, low, unowned, lacking, firewall, ..Observed::closed(state, gap) })
}

/// The images, on the first node that has each; of those that do not answer the others are enough.
async fn images(hub: &Hub, driver: &Driver, world: &World, context: &Context) -> BTreeMap<String, Seen<Image>> {
    let mut here = vec![driver.clone()];
    if driver.nodes().count() > 1
        && let Ok(view) = world.at_most(context.config.resync).await
    {
        here.retain(|driver| view.hidden(driver.node()).is_none());
        for node in driver.nodes().filter(|node| *node != driver.node() && view.hidden(node).is_none()) {
            here.extend(driver.at(node).await.ok());
        }
    }
    let mut images = BTreeMap::new();
    for image in &hub.spec.images {
        let mut found: Seen<Image> = Seen::Absent;
        for driver in &here {
            let seen = match (&image.file, &image.dataset) {
                (Some(file), _) => Seen::from_lookup(driver.imported(Path::new(file), &image.name).await),
                (None, Some(snapshot)) => Seen::from_lookup(driver.find_image(snapshot).await.map(Some)),
                (None, None) => match image.template.map(Vmid) {
                    Some(template) => Seen::from_lookup(driver.find_template(template).await.map(Some)),
                    None => Seen::Unknown { why: "neither file, dataset nor template is given".into() },
                },
            };
            found = match (found, seen) {
                (Seen::Present(mut first), Seen::Present(also)) => {
                    first.nodes.extend(also.nodes);
                    Seen::Present(first)
                }
                (Seen::Present(one), _) | (_, Seen::Present(one)) => Seen::Present(one),
                (Seen::Unknown { why }, _) | (_, Seen::Unknown { why }) => Seen::Unknown { why },
                (Seen::Absent, Seen::Absent) => Seen::Absent,
            };
        }
        images.insert(image.name.clone(), found);
    }
    images
}
