//! Long answers, compressed for clients that say that they can read it; piece by piece, as they are sent. Never watches: an
//! event would wait in the compressor.

use axum::{
    body::{Body, HttpBody},
    http::{
        HeaderMap, HeaderValue,
        header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, VARY},
    },
    response::Response,
};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures::{StreamExt, stream};
use std::io::Write;

#[cfg(test)]
mod tests;

/// Bytes from which on an answer is compressed, and how hard it is tried. Source: apiserver `defaultGzipThresholdBytes` and
/// `defaultGzipContentEncodingLevel`.
const THRESHOLD: u64 = 128 << 10;
const LEVEL: Compression = Compression::new(1);

/// Whether a client takes gzip. Source: RFC 9110 §12.5.3.
pub(super) fn is_accepted(headers: &HeaderMap) -> bool {
    let clauses = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    clauses.map(|clause| clause.split(';').map(str::trim)).any(|mut parts| {
        let coding = parts.next().unwrap_or_default();
        let refused = parts.any(|part| part.strip_prefix("q=").and_then(|q| q.parse::<f32>().ok()).is_some_and(|q| q <= 0.0));
        coding.eq_ignore_ascii_case("gzip") && !refused
    })
}

/// The answer, compressed where it is long. One whose length is not known, as a watch's, goes as it is.
pub(super) fn compressed(response: Response) -> Response {
    let told = response.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()).and_then(|length| length.parse().ok());
    let length = told.or_else(|| response.body().size_hint().exact());
    if length.is_none_or(|length| length < THRESHOLD) || response.headers().contains_key(CONTENT_ENCODING) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    let state = (body.into_data_stream(), Some(GzEncoder::new(Vec::new(), LEVEL)));
    let pieces = stream::try_unfold(state, |(mut body, encoder)| async move {
        let Some(mut encoder) = encoder else { return Ok::<_, axum::Error>(None) };
        while let Some(piece) = body.next().await {
            encoder.write_all(&piece?).map_err(axum::Error::new)?;
            let out = std::mem::take(encoder.get_mut());
            if !out.is_empty() {
                return Ok(Some((Bytes::from(out), (body, Some(encoder)))));
            }
        }
        let rest = encoder.finish().map_err(axum::Error::new)?;
        Ok(Some((Bytes::from(rest), (body, None))))
    });
    Response::from_parts(parts, Body::from_stream(pieces))
}
