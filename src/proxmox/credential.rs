//! As whom Proxmox is called: an API token, or a user who logs in for a ticket.

use secrecy::{ExposeSecret, SecretString};

/// As whom to call.
#[derive(Clone, Debug)]
pub struct Credential {
    pub(super) login: Login,
    /// Where people find it and change it, for errors: `Secret autovibe-system/pve`.
    kept_in: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) enum Login {
    Token { id: String, secret: SecretString },
    Password { user: String, password: SecretString },
}

impl Credential {
    /// A token: `user@realm!name` and its secret.
    pub fn token(id: impl Into<String>, secret: impl Into<SecretString>) -> Self {
        Self { login: Login::Token { id: id.into(), secret: secret.into() }, kept_in: None }
    }

    /// A user, `user@realm`, who logs in.
    pub fn password(user: impl Into<String>, password: impl Into<SecretString>) -> Self {
        Self { login: Login::Password { user: user.into(), password: password.into() }, kept_in: None }
    }

    /// The same, with where it is kept.
    #[must_use]
    pub fn kept_in(mut self, place: impl Into<String>) -> Self {
        self.kept_in = Some(place.into());
        self
    }

    /// `user@realm!name` of a token, `user@realm` of a user.
    pub fn id(&self) -> &str {
        match &self.login {
            Login::Token { id, .. } => id,
            Login::Password { user, .. } => user,
        }
    }

    /// What must not be shown.
    pub fn secret(&self) -> &str {
        match &self.login {
            Login::Token { secret, .. } => secret.expose_secret(),
            Login::Password { password, .. } => password.expose_secret(),
        }
    }

    /// That Proxmox refuses it, with its words, and what to do. The same text each time, so that it can stand in a status.
    pub(super) fn refusal(&self, why: &str) -> String {
        let (what, id) = (if matches!(self.login, Login::Token { .. }) { "token" } else { "user" }, self.id());
        let place = self.kept_in.as_ref().map(|place| format!(" of {place}")).unwrap_or_default();
        let remedy = match (&self.login, &self.kept_in) {
            (_, None) => String::new(),
            (Login::Token { .. }, Some(place)) => {
                let (user, name) = id.split_once('!').unwrap_or((id, "NAME"));
                format!(
                    "; see that user and token exist, are enabled and have not expired (`pveum user token list {user}` on a node), or \
                     make a new one (`pveum user token add {user} {name}`) and put it into {place}"
                )
            }
            (Login::Password { .. }, Some(place)) => {
                format!(
                    "; see that the user is enabled and has not expired (`pveum user list` on a node), and that {place} has its password"
                )
            }
        };
        let why = if why.is_empty() { String::new() } else { format!(": {}", why.trim_end_matches(['.', '!'])) };
        format!("Proxmox refuses the {what} {id}{place} (401{why}){remedy}; it is tried once a minute, and at once when it is changed")
    }
}
