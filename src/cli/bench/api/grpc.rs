//! etcd's own API: gRPC, whose messages go over the same HTTP/2 client as the calls of the hub.
//!
//! Only the few fields that a bench needs. Source: etcd `etcdserver/etcdserverpb/rpc.proto`; framing: gRPC over HTTP/2,
//! "Length-Prefixed-Message". A message that comes is a success: what fails has a status and no message.

use anyhow::{Context as _, bail};
use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, StreamExt};
use prost::Message;
use reqwest::{RequestBuilder, Response, header};

/// A message's compression flag and length.
const PREFIX: usize = 5;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Put {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) value: Bytes,
}

/// All keys from `key` to before `range_end`; `key` alone without that.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Range {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) range_end: Bytes,
    /// 0 is all.
    #[prost(int64, tag = "3")]
    pub(super) limit: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Watch {
    #[prost(message, optional, tag = "1")]
    pub(super) create: Option<Create>,
}

/// The keys of a watch, as of a [`Range`].
#[derive(Clone, PartialEq, Message)]
pub(super) struct Create {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) range_end: Bytes,
}

/// What a watch hears. The events are not read, only counted.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Heard {
    #[prost(bool, tag = "3")]
    pub(super) created: bool,
    #[prost(bool, tag = "4")]
    pub(super) canceled: bool,
    #[prost(bytes = "bytes", repeated, tag = "11")]
    pub(super) events: Vec<Bytes>,
}

/// A message as it is sent.
pub(super) fn frame(message: &impl Message) -> Bytes {
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.encoded_len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend(message.encode_to_vec());
    frame.into()
}

fn request(post: RequestBuilder) -> RequestBuilder {
    post.header(header::CONTENT_TYPE, "application/grpc").header(header::TE, "trailers")
}

async fn answer(post: RequestBuilder) -> anyhow::Result<Response> {
    let response = post.send().await?.error_for_status()?;
    if let Some(status) = response.headers().get("grpc-status").filter(|status| *status != "0") {
        bail!("etcd refused a call: {status:?}, {:?}", response.headers().get("grpc-message"));
    }
    Ok(response)
}

/// One call with one answer, which is returned as it came.
pub(super) async fn call(post: RequestBuilder, message: &impl Message) -> anyhow::Result<Bytes> {
    let mut bytes = answer(request(post).body(frame(message))).await?.bytes().await?;
    if bytes.len() < PREFIX {
        bail!("etcd's answer holds no message: the call failed");
    }
    bytes.advance(PREFIX);
    Ok(bytes)
}

/// A call whose request stays open behind `messages`, and what is heard of it.
pub(super) async fn converse(
    post: RequestBuilder,
    messages: Vec<Bytes>,
) -> anyhow::Result<impl Stream<Item = anyhow::Result<Heard>> + use<>> {
    let open = futures::stream::iter(messages.into_iter().map(Ok::<Bytes, std::io::Error>)).chain(futures::stream::pending());
    let body = answer(request(post).body(reqwest::Body::wrap_stream(open))).await?.bytes_stream().boxed();
    Ok(futures::stream::try_unfold((body, BytesMut::new()), |(mut body, mut buffer)| async move {
        loop {
            if let Some(message) = message(&mut buffer) {
                return Ok(Some((Heard::decode(message)?, (body, buffer))));
            }
            let Some(chunk) = body.next().await else { bail!("etcd ended a watch") };
            buffer.extend_from_slice(&chunk.context("a watch of etcd broke off")?);
        }
    }))
}

/// The first message that `buffer` holds whole.
fn message(buffer: &mut BytesMut) -> Option<Bytes> {
    let length = buffer.get(1..PREFIX)?.try_into().map(u32::from_be_bytes).ok()? as usize;
    if buffer.len() < PREFIX + length {
        return None;
    }
    buffer.advance(PREFIX);
    Some(buffer.split_to(length).freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_out_of_their_frames_whole_however_they_come() {
        let heard = Heard { created: false, canceled: false, events: vec![Bytes::from_static(b"\x10\x01"); 3] };
        let frames = [frame(&heard), frame(&Heard { created: true, ..Heard::default() })].concat();
        let (mut buffer, mut all) = (BytesMut::new(), Vec::new());
        for byte in frames {
            buffer.extend_from_slice(&[byte]);
            all.extend(message(&mut buffer).map(|m| Heard::decode(m).unwrap()));
        }
        assert_eq!((all.len(), all[0].events.len(), all[1].created), (2, 3, true));
        assert!(buffer.is_empty());
    }
}
