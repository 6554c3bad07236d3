use super::place;

#[test]
fn an_address_is_an_ipv4_one_or_a_network_of_ipv6() {
    for (peer, expect) in [
        ("10.0.0.7", "10.0.0.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
    ] {
        assert_eq!(place(peer.parse().unwrap()), expect);
    }
}
