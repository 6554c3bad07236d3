//! Header forms and what they prove.

use super::*;

#[test]
fn only_the_right_bearer_token_is_the_admin() {
    let hash = TokenHash::of("right");
    let check = |header: Option<&str>| authenticate(header, &hash);
    assert_eq!(check(Some("Bearer right")), Authentication::User(User::admin()));
    assert_eq!(check(Some("bearer  right")), Authentication::User(User::admin()));
    assert_eq!(check(Some("Bearer wrong")), Authentication::Rejected);
    assert_eq!(check(Some("Basic right")), Authentication::Rejected);
    assert_eq!(check(Some("right")), Authentication::Rejected);
    assert_eq!(check(None), Authentication::Anonymous);
}

#[test]
fn a_hash_survives_its_text_form_and_nothing_else_is_read_as_one() {
    let hash = TokenHash::of("t");
    assert!(TokenHash::from_hex(&format!("{}\n", hash.to_hex())).is_some_and(|h| h.matches("t")));
    assert!(TokenHash::from_hex("").is_none());
    assert!(TokenHash::from_hex("abcd").is_none());
}
