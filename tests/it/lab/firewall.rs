//! A VM's firewall: what Proxmox takes and refuses, and what becomes of it with the VM; and the rules that the driver makes.

use super::{World, access::Caller};
use autovibe::driver::{Connection, Driver, firewall::Firewall};
use autovibe::proxmox::Vmid;
use serde_json::{Value, json};

const FIREWALL: &str = "/nodes/lab/qemu/1000/firewall";

#[tokio::test]
async fn rules_are_checked_kept_copied_and_removed_with_their_vm() {
    let world = World::start().await;
    let root = Caller::new(&world, "root@pam!test", false);
    assert_eq!(root.task("POST", "/nodes/lab/qemu", &[("vmid", "1000"), ("scsi0", "tank:1")]).await, "OK");
    let rules = format!("{FIREWALL}/rules");
    let rule = [("type", "out"), ("action", "ACCEPT"), ("proto", "tcp"), ("dest", "10.0.0.1"), ("dport", "8081"), ("enable", "1")];
    for (change, field) in [
        (("dest", "gateway.example.org"), "dest"),
        (("action", "LET"), "action"),
        (("type", "sideways"), "type"),
        (("dport", "a b"), "dport"),
        (("iface", "eth0"), "iface"),
        (("colour", "red"), "colour"),
    ] {
        let wrong: Vec<(&str, &str)> = rule.iter().filter(|(key, _)| *key != change.0).copied().chain([change]).collect();
        let answer = root.call("POST", &rules, &wrong).await;
        assert!(answer.status == 400 && answer.body["errors"][field].is_string(), "{change:?}: {}", answer.body);
    }
    let no_protocol: Vec<(&str, &str)> = rule.iter().filter(|(key, _)| *key != "proto").copied().collect();
    assert_eq!(root.call("POST", &rules, &no_protocol).await.body["errors"]["proto"], "missing property");
    root.ok("POST", &rules, &rule).await;
    root.ok("POST", &rules, &[("type", "in"), ("action", "DROP"), ("comment", "the newest is first, and off")]).await;
    let listed = root.ok("GET", &rules, &[]).await;
    assert_eq!(
        (&listed[0]["action"], &listed[0]["enable"], &listed[1]["dest"]),
        (&json!("DROP"), &json!(0), &json!("10.0.0.1")),
        "{listed}"
    );
    root.ok("PUT", &format!("{rules}/0"), &[("moveto", "1"), ("enable", "1")]).await;
    assert_eq!(root.ok("GET", &format!("{rules}/1"), &[]).await["action"], "DROP");
    let stale = root.call("DELETE", &format!("{rules}/1"), &[("digest", "0")]).await;
    assert!(stale.reason.starts_with("detected modified configuration"), "{}", stale.reason);
    root.ok("DELETE", &format!("{rules}/1"), &[]).await;
    root.ok("PUT", &format!("{FIREWALL}/options"), &[("enable", "1"), ("policy_out", "REJECT")]).await;
    let sets = format!("{FIREWALL}/ipset");
    root.ok("POST", &sets, &[("name", "ipfilter-net0")]).await;
    assert_eq!(root.call("POST", &sets, &[("name", "ipfilter-net0")]).await.status, 400);
    root.ok("POST", &format!("{sets}/ipfilter-net0"), &[("cidr", "10.0.0.0/24")]).await;
    assert_eq!(root.call("POST", &format!("{sets}/ipfilter-net0"), &[("cidr", "here and there")]).await.status, 400);

    // Who may see is not who may change.
    let auditor = Caller::new(&world, "alice@pve!t", false);
    root.ok("PUT", "/access/acl", &[("path", "/"), ("roles", "PVEAuditor"), ("users", "alice@pve")]).await;
    auditor.ok("GET", &rules, &[]).await;
    assert_eq!(auditor.call("POST", &rules, &rule).await.reason, "Permission check failed (/vms/1000, VM.Config.Network)");
    assert_eq!(auditor.ok("GET", "/cluster/firewall/options", &[]).await["enable"], Value::Null);
    assert_eq!(auditor.call("PUT", "/cluster/firewall/options", &[("enable", "1")]).await.status, 403);
    root.ok("PUT", "/cluster/firewall/options", &[("enable", "1")]).await;
    assert!(world.client.firewall_is_on().await.unwrap());

    assert_eq!(root.task("POST", "/nodes/lab/qemu/1000/clone", &[("newid", "1001"), ("name", "copy"), ("full", "1")]).await, "OK");
    assert_eq!(world.lab.firewall(1001), world.lab.firewall(1000));
    assert_eq!(world.lab.firewall(1001)["options"]["policy_out"], "REJECT");
    assert_eq!(root.task("DELETE", "/nodes/lab/qemu/1001", &[]).await, "OK");
    assert_eq!(world.lab.firewall(1001), Value::Null);
}

#[tokio::test]
async fn a_vm_is_confined_once_however_often_and_whatever_its_template_had() {
    let world = World::start().await;
    let root = Caller::new(&world, "root@pam!test", false);
    assert_eq!(root.task("POST", "/nodes/lab/qemu", &[("vmid", "1000"), ("scsi0", "tank:1")]).await, "OK");
    root.ok("PUT", &format!("{FIREWALL}/options"), &[("enable", "1"), ("policy_out", "ACCEPT"), ("radv", "1")]).await;
    root.ok("POST", &format!("{FIREWALL}/rules"), &[("type", "out"), ("action", "ACCEPT"), ("enable", "1")]).await;
    root.ok("POST", &format!("{FIREWALL}/ipset"), &[("name", "ipfilter-net0")]).await;
    root.ok("POST", &format!("{FIREWALL}/ipset/ipfilter-net0"), &[("cidr", "0.0.0.0/1")]).await;
    let firewall = Firewall { gateway: ("10.10.0.1".parse().unwrap(), 8081), guests: vec!["10.10.0.0/24".into()] };
    let connection = Connection { firewall: Some(firewall), ..Connection::of_lab(world.lab.endpoint()) };
    let driver = Driver::open(connection.clone()).await.unwrap();
    for _ in 0..2 {
        driver.confine(Vmid(1000), false).await.unwrap();
        let now = world.lab.firewall(1000);
        let rules = now["rules"].as_array().unwrap();
        assert_eq!(rules.len(), 1, "{now}");
        for (key, value) in
            [("type", "out"), ("action", "ACCEPT"), ("dest", "10.10.0.1"), ("dport", "8081"), ("proto", "tcp"), ("enable", "1")]
        {
            assert_eq!(rules[0][key], value, "{now}");
        }
        assert!(rules[0]["comment"].as_str().unwrap().starts_with("autovibe:"));
        let options =
            [("enable", "1"), ("policy_in", "DROP"), ("policy_out", "REJECT"), ("ipfilter", "1"), ("macfilter", "1"), ("radv", "0")];
        assert!(options.iter().all(|(key, value)| now["options"][key] == *value), "{now}");
        assert_eq!(now["ipsets"], json!({"ipfilter-net0": [{"cidr": "10.10.0.0/24"}]}));
    }
    // One whose rules were of another gateway gets those of this one.
    let moved = Firewall { gateway: ("fd00::1".parse().unwrap(), 80), guests: Vec::new() };
    let elsewhere = Driver::open(Connection { firewall: Some(moved), ..connection.clone() }).await.unwrap();
    elsewhere.confine(Vmid(1000), false).await.unwrap();
    let now = world.lab.firewall(1000);
    assert_eq!((&now["rules"][0]["dest"], now["rules"].as_array().unwrap().len()), (&json!("fd00::1"), 1), "{now}");
    assert_eq!((&now["options"]["ipfilter"], &now["ipsets"]), (&json!("0"), &json!({})), "{now}");
    // Where it is not ours to see to, and for a VM without a card, nothing is asked.
    let before = world.lab.calls();
    elsewhere.isolated().confine(Vmid(1000), false).await.unwrap();
    assert_eq!(world.lab.calls(), before);
    let unmanaged = Driver::open(Connection { firewall: None, ..connection.clone() }).await.unwrap();
    let before = world.lab.calls();
    unmanaged.confine(Vmid(1000), false).await.unwrap();
    assert_eq!(world.lab.calls(), before);

    // To see whether rules are in force takes a privilege more.
    let lacks = |driver: Driver| async move { driver.lacking("9.2").await.unwrap().into_iter().map(|lack| lack.path).collect::<Vec<_>>() };
    let token = autovibe::proxmox::Credential::token("bob@pve!hub", world.lab.token("bob@pve!hub", false));
    let mut poor = connection.clone();
    poor.proxmox.credential = token;
    assert!(lacks(Driver::open(poor.clone()).await.unwrap()).await.contains(&"/".to_owned()));
    poor.firewall = None;
    assert!(!lacks(Driver::open(poor).await.unwrap()).await.contains(&"/".to_owned()));
}
