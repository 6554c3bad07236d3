//! A user who logs in: tickets, the token against forged requests, and what the client makes of both.

use autovibe::clock::{Clock, Tenure};
use autovibe::lab::{self, Call, Lab, Mode};
use autovibe::proxmox::{Client, Config, Credential, Error, Node, Vmid};
use autovibe::wire::{NoAnswer, Service};
use std::time::Duration;

/// One on tokio's clock, and its root as a client who logs in with `given`.
async fn world(given: &str) -> (Lab, Client) {
    rustls::crypto::ring::default_provider().install_default().ok();
    let nowhere = "127.0.0.1:9".parse().unwrap();
    let config = lab::Config {
        mode: Mode::Simulated,
        data: "/nonexistent".into(),
        listen: nowhere,
        gateway: nowhere,
        lag: Duration::ZERO,
        refusal: Duration::from_secs(3),
        setup: None,
    };
    let gateway = Service::new(|_| Box::pin(async { Err(NoAnswer) }));
    let lab = lab::simulate(config, gateway, Clock::simulated("2026-11-02T08:00:00Z".parse().unwrap())).await.unwrap();
    lab.password("root@pam", "right");
    let credential = Credential::password("root@pam", given).kept_in("Secret autovibe-system/pve");
    let config = Config { endpoint: lab.endpoint().endpoint.clone(), fingerprint: None, credential };
    let client = Client::over(config, Some(lab.proxmox()), Tenure::unlimited()).unwrap();
    (lab, client)
}

#[tokio::test(start_paused = true)]
async fn a_ticket_serves_all_calls_and_is_renewed_before_it_ends() {
    let (lab, client) = world("right").await;
    assert_eq!(client.version().await.unwrap(), "9.2");
    client.create(&Node("lab".into()), Vmid(1000), &[("name".to_owned(), "a".to_owned())].into()).await.unwrap();
    assert_eq!(lab.count(Call::Login), 1);
    // The ticket at hand is still good, so that the password is not needed for another.
    lab.password("root@pam", "another");
    tokio::time::advance(Duration::from_mins(91)).await;
    client.version().await.unwrap();
    tokio::time::advance(Duration::from_mins(89)).await;
    client.version().await.unwrap();
    assert_eq!(lab.count(Call::Login), 2);
    // One that ended unused is replaced with the password.
    lab.password("root@pam", "right");
    tokio::time::advance(Duration::from_hours(3)).await;
    client.version().await.unwrap();
    assert_eq!(lab.count(Call::Login), 4, "the old ticket is tried first");
}

#[tokio::test(start_paused = true)]
async fn a_ticket_that_is_refused_is_replaced_once_and_by_one_login_for_all() {
    let (lab, client) = world("right").await;
    client.version().await.unwrap();
    let forget = |enabled| lab.enable("root@pam", enabled);
    forget(false);
    let before = lab.calls();
    let refused = client.version().await.unwrap_err();
    let text = refused.to_string();
    assert!(matches!(refused, Error::Unauthorized { .. }), "{text}");
    assert!(text.contains("user root@pam of Secret autovibe-system/pve") && text.contains("has its password"), "{text}");
    assert_eq!(lab.calls() - before, 2, "the call, and one login");
    for minute in 0..10 {
        assert_eq!(client.version().await.unwrap_err().to_string(), text, "minute {minute}");
        tokio::time::advance(Duration::from_secs(30)).await;
        assert!(client.nodes().await.is_err());
        tokio::time::advance(Duration::from_secs(30)).await;
    }
    let calls = lab.calls() - before - 2;
    assert!((7..=10).contains(&calls), "{calls} in ten minutes, of one login each");
    forget(true);
    tokio::time::advance(Duration::from_mins(1)).await;
    client.version().await.unwrap();
    client.version().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_wrong_password_is_said_with_where_it_is_kept() {
    let (lab, client) = world("wrong").await;
    let refused = client.version().await.unwrap_err().to_string();
    assert!(refused.contains("(401: authentication failure)") && !refused.contains("wrong"), "{refused}");
    assert_eq!((lab.count(Call::Login), lab.count(Call::Version)), (1, 0));
    assert!(client.nodes().await.is_err());
    assert_eq!(lab.calls(), 1, "nothing more is sent");
}

/// As recorded (14 and 01).
#[tokio::test]
async fn a_change_with_a_ticket_needs_the_token_against_forged_requests() {
    let world = super::World::start().await;
    world.lab.password("alice@pve", "secret");
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let base = format!("{}/api2/json", world.lab.endpoint().endpoint);
    let log_in = async |password: &str| {
        let form = [("username", "alice@pve"), ("password", password)];
        http.post(format!("{base}/access/ticket")).form(&form).send().await.unwrap()
    };
    assert_eq!(log_in("wrong").await.status(), 401);
    let data: serde_json::Value = log_in("secret").await.json().await.unwrap();
    let text = |key: &str| data["data"][key].as_str().unwrap().to_owned();
    let (ticket, csrf) = (text("ticket"), text("CSRFPreventionToken"));
    let start = async |ticket: &str, csrf: Option<&str>| {
        let request = http.post(format!("{base}/nodes/lab/qemu/100/status/start")).header("cookie", format!("PVEAuthCookie={ticket}"));
        let request = csrf.into_iter().fold(request, |request, csrf| request.header("CSRFPreventionToken", csrf));
        let answer = request.send().await.unwrap();
        let reason = answer.extensions().get::<hyper::ext::ReasonPhrase>();
        let reason = reason.map(|reason| String::from_utf8_lossy(reason.as_bytes()).into_owned()).unwrap_or_default();
        (answer.status().as_u16(), reason)
    };
    let forged = (401, "Permission denied - invalid csrf token".to_owned());
    assert_eq!(start(&ticket, None).await, forged);
    assert_eq!(start(&ticket, Some(&format!("{csrf}0"))).await, forged);
    assert_eq!(start(&format!("{ticket}0"), Some(&csrf)).await, (401, "Authentication failed!".to_owned()));
    assert_eq!(start(&ticket, Some(&csrf)).await.0, 403, "she is known, and may not");
    let renewed: serde_json::Value = log_in(&ticket).await.json().await.unwrap();
    assert!(renewed["data"]["ticket"].is_string(), "a ticket serves as its user's password");
}
