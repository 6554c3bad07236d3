//! `/autovibe/secrets/key`: how far a change of the Secrets' key is (GET), and the wish for one (POST).

use super::{reply, serve, status::Status};
use crate::objects::{Locked, Objects};
use axum::{
    body::Body,
    http::{HeaderMap, Method},
    response::Response,
};
use serde::Deserialize;
use serde_json::json;

/// What a POST may say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    /// Servers that are not waited for.
    #[serde(default)]
    gone: Vec<String>,
}

pub(super) async fn answer(objects: &Objects, method: &Method, headers: &HeaderMap, body: Body) -> Result<Response, Status> {
    let rotation = match *method {
        Method::GET => objects.rotation().await,
        Method::POST => {
            let bytes = serve::read_body(headers, body, serve::MAX_BODY).await?;
            let wish: Wish = if bytes.is_empty() {
                Wish::default()
            } else {
                serde_json::from_slice(&bytes)
                    .map_err(|e| Status::bad_request(format!("the body is to be {{\"gone\": [SERVER, …]}}: {e}")))?
            };
            objects.rotate(&wish.gone).await
        }
        _ => return Err(Status::method_not_allowed()),
    };
    let rotation = rotation.map_err(|error| match error {
        Locked::Store(error) => error.into(),
        // Its words name Secrets and files, never a value; who may ask for a change is to read them.
        error => Status::new(409, "Conflict", error.to_string()),
    })?;
    Ok(reply::with_type(200, json!(rotation).to_string(), "application/json"))
}
