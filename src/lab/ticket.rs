//! Logins: a user's password, or a ticket that is still good, for a ticket and a token against forged requests.
//!
//! Source: proxmox-zfs facts 1.1; recordings 01 and 14.

use super::{
    answer::{Answer, Refusal},
    cluster::Cluster,
    node::lock,
    parameters::Parameters,
    permission::{User, Who},
};
use serde_json::json;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// How long a ticket is good, seconds.
const LIFETIME: i64 = 2 * 60 * 60;

impl Cluster {
    pub(super) async fn log_in(&self, parameters: &Parameters) -> Answer {
        let (name, password) = (parameters.get("username").unwrap_or_default(), parameters.get("password").unwrap_or_default());
        let user = match parameters.get("realm") {
            Some(realm) if !name.contains('@') => format!("{name}@{realm}"),
            _ => name.to_owned(),
        };
        let known = self.access(|access| {
            let known = access.users.get(&user).filter(|user| self.is_active(user))?;
            Some(known.password.as_ref().is_some_and(|right| bool::from(right.as_bytes().ct_eq(password.as_bytes()))))
        });
        let renews = || self.holder(password, None, true).is_ok_and(|who| who.user == user);
        if !known.is_some_and(|right| right || renews()) {
            self.refuse().await;
            return Err(Refusal::Text(401, "authentication failure".into()));
        }
        let at = format!("{:08X}", self.now());
        let ticket = format!("PVE:{user}:{at}::{}", self.sign(&format!("ticket {user} {at}")));
        let csrf = format!("{at}:{}", self.sign(&format!("csrf {user} {at}")));
        Ok(json!({ "username": user, "ticket": ticket, "CSRFPreventionToken": csrf }).into())
    }

    /// Whose ticket this is. What changes something needs the token against forged requests too.
    pub(super) fn holder(&self, ticket: &str, csrf: Option<&str>, reads: bool) -> Result<Who, &'static str> {
        let fine = |what: &str, user: &str, at: &str, signature: &str| {
            let age = i64::from_str_radix(at, 16).map(|at| self.now() - at);
            let right = bool::from(self.sign(&format!("{what} {user} {at}")).as_bytes().ct_eq(signature.as_bytes()));
            right && age.is_ok_and(|age| (0..LIFETIME).contains(&age))
        };
        let user = ticket.strip_prefix("PVE:").and_then(|rest| {
            let (head, signature) = rest.split_once("::")?;
            let (user, at) = head.rsplit_once(':')?;
            let active = self.access(|access| access.users.get(user).is_some_and(|user| self.is_active(user)));
            (active && fine("ticket", user, at, signature)).then_some(user)
        });
        let user = user.ok_or("Authentication failed!")?;
        let forged = !reads && !csrf.and_then(|csrf| csrf.split_once(':')).is_some_and(|(at, signature)| fine("csrf", user, at, signature));
        if forged { Err("Permission denied - invalid csrf token") } else { Ok(Who { user: user.to_owned(), token: None }) }
    }

    /// Whose token this is.
    pub(super) fn bearer(&self, id: &str, secret: &str) -> Option<Who> {
        self.access(|access| {
            let (token, who) = (access.tokens.get(id)?, Who::parse(id));
            let active = access.users.get(&who.user).is_some_and(|user| self.is_active(user));
            let right = bool::from(secret.as_bytes().ct_eq(token.secret.as_bytes()));
            (right && active && !self.is_over(token.expire)).then_some(who)
        })
    }

    /// Who is refused waits.
    pub(super) async fn refuse(&self) {
        let pause = *lock(&self.refusal);
        self.clock.sleep(pause).await;
    }

    fn is_active(&self, user: &User) -> bool {
        !user.disabled && !self.is_over(user.expire)
    }

    fn is_over(&self, expire: i64) -> bool {
        expire > 0 && expire <= self.now()
    }

    fn sign(&self, text: &str) -> String {
        let secret = self.store.read(|state| state.secret.clone());
        let inner = Sha256::digest(format!("{secret}\n{text}"));
        hex::encode(Sha256::new().chain_update(secret).chain_update(inner).finalize())
    }
}
