//! The admin token and the kubeconfig that carries it. The server keeps the token's hash; the plain one is in the kubeconfig alone.

use super::{Error, tls};
use crate::auth::TokenHash;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;
use std::{net::SocketAddr, path::Path};

const HASH_FILE: &str = "admin-token.sha256";
const KUBECONFIG: &str = "kubeconfig";

/// Reads the admin token's hash, or makes a token, and writes the kubeconfig for `address`. A lost kubeconfig gets a new token.
pub(super) fn prepare(data: &Path, address: SocketAddr, ca_pem: &str) -> Result<TokenHash, Error> {
    let (hash_path, config_path) = (data.join(HASH_FILE), data.join(KUBECONFIG));
    let stored = std::fs::read_to_string(&hash_path).ok().and_then(|text| TokenHash::from_hex(&text));
    let kept = std::fs::read_to_string(&config_path).ok().and_then(|text| token_of(&text));
    let (token, hash) = match (kept, stored) {
        (Some(token), Some(hash)) if hash.matches(&token) => (token, hash),
        _ => {
            let token = format!("av-admin-{}", hex::encode(crate::random::draw::<[u8; 32]>()));
            let hash = TokenHash::of(&token);
            tls::write_private(&hash_path, &hash.to_hex())?;
            (token, hash)
        }
    };
    let host = if address.ip().is_unspecified() { SocketAddr::new([127, 0, 0, 1].into(), address.port()) } else { address };
    let cluster = json!({"server": format!("https://{host}"), "certificate-authority-data": STANDARD.encode(ca_pem)});
    tls::write_private(&config_path, &kubeconfig(&cluster, "admin", &Credential::Token(token), "default"))?;
    Ok(hash)
}

fn token_of(kubeconfig: &str) -> Option<String> {
    let config: serde_json::Value = serde_yaml::from_str(kubeconfig).ok()?;
    config.pointer("/users/0/user/token")?.as_str().map(Into::into)
}

/// What a kubeconfig proves its user with.
#[derive(Clone)]
pub enum Credential {
    Token(String),
    /// Both PEM.
    Certificate {
        certificate: String,
        key: String,
    },
}

/// A kubeconfig of one user. `cluster` says where the server is and whom to trust, as in another kubeconfig.
pub fn kubeconfig(cluster: &serde_json::Value, user: &str, credential: &Credential, namespace: &str) -> String {
    let credential = match credential {
        Credential::Token(token) => json!({"token": token}),
        Credential::Certificate { certificate, key } => {
            json!({"client-certificate-data": STANDARD.encode(certificate), "client-key-data": STANDARD.encode(key)})
        }
    };
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "autovibe", "cluster": cluster}],
        "users": [{"name": user, "user": credential}],
        "contexts": [{"name": "autovibe", "context": {"cluster": "autovibe", "user": user, "namespace": namespace}}],
        "current-context": "autovibe",
    });
    serde_yaml::to_string(&config).expect("plain maps and strings have a YAML form")
}
