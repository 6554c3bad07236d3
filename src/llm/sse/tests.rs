use super::*;
use serde_json::json;

#[test]
fn any_cut_gives_the_same_events() {
    let text = "event: a\ndata: {\"n\":1}\n\n: comment\r\nevent: b\r\ndata:{\"n\":\r\ndata: 2}\r\n\r\nretry: 1\n\ndata: no json\n\ndata: {\"n\":3}\n\n";
    let expected = vec![json!({"n": 1}), json!({"n": 2}), json!({"n": 3})];
    for cut in 0..text.len() {
        let mut parser = Parser::default();
        let mut events = parser.push(&text.as_bytes()[..cut]);
        events.extend(parser.push(&text.as_bytes()[cut..]));
        assert_eq!(events, expected, "cut at {cut}");
    }
    let mut parser = Parser::default();
    assert_eq!(text.bytes().flat_map(|b| parser.push(&[b])).collect::<Vec<_>>(), expected);
}

#[test]
fn an_endless_line_costs_no_memory_and_the_next_event_is_read() {
    let mut parser = Parser::default();
    for _ in 0..64 {
        assert!(parser.push(&vec![b'x'; 1 << 16]).is_empty());
        assert!(parser.line.capacity() <= 2 * MAX_LINE);
    }
    assert_eq!(parser.push(b"\ndata: {\"n\":1}\n\n"), vec![json!({"n": 1})]);
}
