use super::*;

#[test]
fn only_the_usage_chunk_is_taken_out_wherever_the_stream_is_cut() {
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3}}";
    for end in ["\n\n", "\r\n\r\n"] {
        let kept = [
            ": a comment",
            "data: {\"choices\":[{\"delta\":{\"content\":\"a\\n\\nb\"}}],\"usage\":null}",
            "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":3}}",
            "data: {\"choices\":[]}",
            "data: [DONE]",
        ];
        let text: String = kept[..4].iter().chain(&[usage]).chain(&kept[4..]).map(|event| format!("{event}{end}")).collect();
        let expected: String = kept.iter().map(|event| format!("{event}{end}")).collect();
        for cut in 0..=text.len() {
            let mut filter = Filter::default();
            let mut passed = filter.push(&text.as_bytes()[..cut]).to_vec();
            passed.extend(filter.push(&text.as_bytes()[cut..]));
            passed.extend(filter.end());
            assert_eq!(String::from_utf8(passed).unwrap(), expected, "cut at {cut}");
        }
    }
}

#[test]
fn what_is_no_event_passes_at_the_end() {
    let mut filter = Filter::default();
    assert!(filter.push(b"data: {\"choices\":[").is_empty());
    assert_eq!(filter.end(), "data: {\"choices\":[");
    let long = vec![b'x'; MAX_EVENT + 1];
    assert_eq!(filter.push(&long).len(), long.len());
}
