use super::*;
use std::io::Read;

fn accepts(value: &'static str) -> bool {
    is_accepted(&HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(value))]))
}

#[test]
fn only_who_says_so_is_sent_gzip() {
    for value in ["gzip", "deflate, GZIP", "gzip;q=0.5", "br, gzip ; q=1"] {
        assert!(accepts(value), "{value}");
    }
    for value in ["", "identity", "gzip;q=0", "br, gzip; q=0.0", "x-gzipped"] {
        assert!(!accepts(value), "{value}");
    }
    assert!(!is_accepted(&HeaderMap::new()));
}

/// The body that a client reads, and whether it came compressed.
async fn read(response: Response) -> (Vec<u8>, bool) {
    let gzip = response.headers().contains_key(CONTENT_ENCODING);
    assert_eq!(gzip, response.headers().contains_key(VARY));
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let mut text = Vec::new();
    if gzip {
        flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut text).unwrap();
    } else {
        text.extend(&bytes);
    }
    (text, gzip)
}

#[tokio::test]
async fn what_is_long_comes_out_as_it_went_in_and_what_is_short_or_endless_is_left_alone() {
    let text: Vec<u8> = (0_u32..100_000).flat_map(|number| number.to_string().into_bytes()).collect();
    let pieces = |length: Option<usize>| {
        let chunks: Vec<_> = text.chunks(1000).map(|chunk| Ok::<_, axum::Error>(Bytes::copy_from_slice(chunk))).collect();
        let mut response = Response::new(Body::from_stream(stream::iter(chunks)));
        length.map(|length| response.headers_mut().insert(CONTENT_LENGTH, length.into()));
        compressed(response)
    };
    assert_eq!(read(compressed(Response::new(Body::from(text.clone())))).await, (text.clone(), true));
    assert_eq!(read(pieces(Some(text.len()))).await, (text.clone(), true));
    assert_eq!(read(pieces(None)).await, (text.clone(), false), "a watch");
    let short = text[..(128 << 10) - 1].to_vec();
    assert_eq!(read(compressed(Response::new(Body::from(short.clone())))).await, (short, false));
}
