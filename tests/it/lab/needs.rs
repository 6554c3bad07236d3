//! What a Hub's token lacks, as Proxmox says it, and that the commands which are told mend it.

use super::{World, access::Caller};
use autovibe::api::hub::Lack;
use autovibe::driver::{Connection, Driver, needs};
use autovibe::proxmox::Credential;

/// Does what `pveum` does with a command.
async fn pveum(root: &Caller, command: &str) {
    let words: Vec<&str> = command.split(' ').collect();
    match words[..] {
        ["pveum", "role", "add", role, "--privs", ..] => {
            let privileges = command.split('"').nth(1).unwrap();
            root.ok("POST", "/access/roles", &[("roleid", role), ("privs", privileges)]).await;
        }
        ["pveum", "acl", "modify", path, to @ ("--users" | "--tokens"), who, "--roles", role] => {
            root.ok("PUT", "/access/acl", &[("path", path), ("roles", role), (&to[2..], who.trim_matches('\''))]).await;
        }
        _ => panic!("{command}"),
    }
}

#[tokio::test]
async fn what_a_token_lacks_is_named_and_mended_by_the_commands_that_are_told() {
    for privsep in [false, true] {
        let world = World::start().await;
        let root = Caller::new(&world, "root@pam!test", false);
        let mut connection = Connection::of_lab(world.lab.endpoint());
        connection.proxmox.credential = Credential::token("alice@pve!hub", world.lab.token("alice@pve!hub", privsep));
        let driver = Driver::open(connection.clone()).await.unwrap();
        let lacking = driver.lacking("9.2").await.unwrap();
        let paths: Vec<&str> = lacking.iter().map(|lack| lack.path.as_str()).collect();
        assert_eq!(paths, ["/vms", "/storage/tank", "/sdn/zones/localnetwork", "/nodes"], "{lacking:?}");
        let has = |lacking: &[Lack], privilege: &str| lacking.iter().any(|lack| lack.privileges.iter().any(|found| found == privilege));
        assert!(has(&lacking, "VM.GuestAgent.Unrestricted") && !has(&lacking, "VM.Monitor"));
        let before_9 = driver.lacking("8.4").await.unwrap();
        assert!(!has(&before_9, "VM.GuestAgent.Unrestricted") && has(&before_9, "VM.Monitor"));

        // A part of it is there already.
        root.ok("PUT", "/access/acl", &[("path", "/"), ("roles", "PVEAuditor"), ("users", "alice@pve")]).await;
        root.ok("PUT", "/access/acl", &[("path", "/"), ("roles", "PVEAuditor"), ("tokens", "alice@pve!hub")]).await;
        let rest = driver.lacking("9.2").await.unwrap();
        assert!(has(&lacking, "VM.Audit") && !has(&rest, "VM.Audit") && !has(&rest, "Sys.Audit") && has(&rest, "VM.Allocate"), "{rest:?}");
        for command in needs::commands(&rest, connection.proxmox.credential.id()) {
            pveum(&root, &command).await;
        }
        assert_eq!(driver.lacking("9.2").await.unwrap(), [], "privsep {privsep}");
    }
}
