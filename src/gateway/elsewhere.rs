//! A token is used from where it was used first: a copy of it somewhere else, as on a fork, is worth nothing.
//!
//! The first use is its guest's own: a launch begins with it. The address is stored with the token, so that every gateway of a hub knows it.

#[cfg(test)]
mod tests;

use super::{Gateway, http::unknown, refusal::Refusal};
use crate::{
    api::{DEFAULT_HUB, Kind, Machine, hub::TokensFrom},
    objects::EventType,
    store::{self, TokenOwner},
};
use axum::{
    extract::{ConnectInfo, Request},
    middleware::Next,
    response::Response,
};
use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::atomic::Ordering,
};

tokio::task_local! {
    /// Who asks; unknown in a process where no network leads to the gateway.
    static PEER: IpAddr;
}

/// Notes for a request who sent it.
pub(super) async fn noted(request: Request, next: Next) -> Response {
    match request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip().to_canonical()) {
        Some(peer) => PEER.scope(peer, next.run(request)).await,
        None => next.run(request).await,
    }
}

/// An address as it is stored. Of IPv6 the network of 64 bits: a guest changes the rest by itself.
fn place(peer: IpAddr) -> String {
    match peer {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("{}/64", Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

impl Gateway {
    /// Refuses a token that was first used elsewhere, in the words for one that is nobody's; the log and an Event say more.
    pub(super) async fn refuse_elsewhere(&self, hash: &str, owner: &TokenOwner, machine: &Machine) -> Result<(), Refusal> {
        let Ok(peer) = PEER.try_with(|peer| *peer) else { return Ok(()) };
        let here = place(peer);
        let known = if peer.is_ipv4() { owner.ipv4.clone() } else { owner.ipv6.clone() };
        let known = match known {
            Some(known) => known,
            None => self.bind(hash, here.clone(), peer.is_ipv4()).await?,
        };
        if known == here {
            return Ok(());
        }
        let hub = self.directory.hub(machine.spec.hub.as_deref().unwrap_or(DEFAULT_HUB)).await?;
        let gateway = hub.as_ref().and_then(|hub| hub.spec.gateway.as_ref());
        if gateway.is_some_and(|gateway| gateway.tokens_from == TokensFrom::AnyAddress) {
            return Ok(());
        }
        let message = format!(
            "its token was refused from {here}: it was first used from {known}. Either it was copied, or guests come by more than one \
             address: then set spec.gateway.tokensFrom of the Hub to AnyAddress"
        );
        tracing::warn!(object.kind = "Machine", object.name = machine.name(), object.uid = machine.uid(), "{message}");
        // Once is enough to be seen, and a flood of them would be the sender's to make.
        if !self.live(machine.uid()).await?.elsewhere.swap(true, Ordering::Relaxed) {
            self.objects.record(machine, EventType::Warning, "TokenElsewhere", &message).await;
        }
        Err(unknown())
    }

    /// Where the token is at home: here, unless another gateway has just heard of it from elsewhere.
    async fn bind(&self, hash: &str, here: String, is_ipv4: bool) -> Result<String, store::Error> {
        let hash = hash.to_owned();
        self.store().write(move |transaction| Box::pin(async move { transaction.bind_token(&hash, &here, is_ipv4).await })).await
    }
}
