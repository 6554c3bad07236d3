//! Tokens of ServiceAccounts, client certificates and impersonation: what they prove, and when no more.

use super::{account, bind, to_account, to_person, token};
use crate::served::{Client, Served};
use autovibe::store::Options;
use reqwest::Method;
use serde_json::{Value, json};

const WHOAMI: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

/// Name and groups that the server sees.
async fn whoami(client: &Client) -> (String, Vec<String>) {
    let (code, answer) = client.post(WHOAMI, &json!({})).await;
    assert_eq!(code, 201, "{answer}");
    let user = &answer["status"]["userInfo"];
    let groups = user["groups"].as_array().expect("groups").iter().map(|group| group.as_str().expect("text").to_owned()).collect();
    (user["username"].as_str().expect("a name").to_owned(), groups)
}

/// Who a client is by its certificate alone.
async fn whoami_certified(client: &Client) -> (u16, Value) {
    client.send(client.http.post(format!("{}{WHOAMI}", client.url)).json(&json!({}))).await
}

#[tokio::test]
async fn a_token_is_its_account_and_lasts_as_long_as_was_asked() {
    let admin = Served::shared();
    admin.namespace("tokens").await;
    let text = account(&admin, "tokens", "bot").await;
    let bot = admin.with_token(&text);
    let groups = ["system:serviceaccounts", "system:serviceaccounts:tokens", "system:authenticated"].map(String::from).to_vec();
    assert_eq!(whoami(&bot).await, ("system:serviceaccount:tokens:bot".into(), groups));

    let path = "/api/v1/namespaces/tokens/serviceaccounts/bot/token";
    let ask = |spec: Value| {
        let admin = &admin;
        async move { admin.post(path, &json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec})).await }
    };
    for (spec, code, expect) in [
        (json!({}), 201, "3600"),
        (json!({"expirationSeconds": 600, "audiences": ["autovibe"]}), 201, "600"),
        // Shortened to a year, as the answer says.
        (json!({"expirationSeconds": 4_000_000_000_u64}), 201, "31536000"),
        (
            json!({"expirationSeconds": 599}),
            422,
            "spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes",
        ),
        (json!({"expirationSeconds": 5_000_000_000_u64}), 422, "may not specify a duration larger than 2^32 seconds"),
        (json!({"audiences": ["other"]}), 422, "spec.audiences[0]: Unsupported value: \"other\": supported values: \"autovibe\""),
        (
            json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p"}}),
            400,
            "cannot bind token for object of type v1, Kind=Pod",
        ),
    ] {
        let (got, answer) = ask(spec.clone()).await;
        assert_eq!(got, code, "{spec} {answer}");
        assert!(answer.to_string().replace("\\\"", "\"").contains(expect), "{spec} {answer}");
    }
    assert_eq!(admin.post("/api/v1/namespaces/tokens/serviceaccounts/none/token", &json!({})).await.0, 404);
    let (code, dry) = admin.post(&format!("{path}?dryRun=All"), &json!({})).await;
    assert_eq!((code, &dry["status"]["token"]), (201, &json!("")));
    // Only a hash of it lies anywhere.
    for file in std::fs::read_dir(&admin.directory).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        let secret = text.rsplit('-').next().unwrap().as_bytes();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret));
    }
    // Near misses are refused as any other wrong token is.
    for wrong in
        [text.to_uppercase(), format!("{text} "), text[..text.len() - 1].to_owned(), format!("{text}' OR '1'='1"), "x".repeat(10_000)]
    {
        let (code, answer) = admin.with_token(&wrong).get("/api").await;
        let fine = code == 401 && answer["message"] == "Unauthorized";
        assert!(fine || (code == 200 && wrong.trim() == text), "{code} {answer}");
    }
}

#[tokio::test]
async fn a_token_dies_with_its_account_and_every_namespace_has_a_default_one() {
    let admin = Served::shared();
    admin.namespace("accounts").await;
    let path = "/api/v1/namespaces/accounts/serviceaccounts/default";
    let (code, first) = admin.get(path).await;
    assert_eq!(code, 200, "{first}");
    for preset in ["default", "kube-system", "autovibe-system"] {
        assert_eq!(admin.get(&format!("/api/v1/namespaces/{preset}/serviceaccounts/default")).await.0, 200, "{preset}");
    }
    let bot = admin.with_token(&token(&admin, "accounts", "default").await);
    assert_eq!(bot.get("/api").await.0, 200);
    assert_eq!(admin.delete(path).await.0, 200);
    let (code, second) = admin.get(path).await;
    assert_eq!(code, 200, "it is made again");
    assert_ne!(second["metadata"]["uid"], first["metadata"]["uid"]);
    assert_eq!(bot.get("/api").await.0, 401, "a namesake is another");

    // One that waits for its finalizers is dead too.
    let bot = admin.with_token(&account(&admin, "accounts", "held").await);
    let held = "/api/v1/namespaces/accounts/serviceaccounts/held";
    let patch = json!({"metadata": {"finalizers": ["example.com/hold"]}});
    assert_eq!(admin.patch(held, "application/merge-patch+json", &patch).await.0, 200);
    assert_eq!(bot.get("/api").await.0, 200);
    assert_eq!(admin.delete(held).await.0, 200);
    assert_eq!(bot.get("/api").await.0, 401);
    let patch = json!({"metadata": {"finalizers": null}});
    assert_eq!(admin.patch(held, "application/merge-patch+json", &patch).await.0, 200);

    // With its namespace everything ends, the default account included.
    let bot = admin.with_token(&token(&admin, "accounts", "default").await);
    assert_eq!(admin.delete("/api/v1/namespaces/accounts").await.0, 200);
    assert_eq!(bot.get("/api").await.0, 401);
    assert_eq!(admin.get("/api/v1/namespaces/accounts").await.0, 404);
}

#[tokio::test]
async fn a_certificate_is_its_cn_and_its_os_if_the_hubs_authority_signed_it() {
    let admin = Served::shared();
    let groups = ["a", "b with space", "grüße, auch=das", "d"];
    let carol = admin.certified("carol <x>", &groups);
    let (code, answer) = whoami_certified(&carol).await;
    assert_eq!(code, 201, "{answer}");
    let expect: Vec<&str> = groups.into_iter().chain(["system:authenticated"]).collect();
    assert_eq!(answer["status"]["userInfo"], json!({"username": "carol <x>", "uid": "", "groups": expect}));
    let (code, answer) = carol.send(carol.http.get(format!("{}/api/v1/secrets", carol.url))).await;
    assert_eq!(code, 403);
    let message = "secrets is forbidden: User \"carol &lt;x&gt;\" cannot list resource \"secrets\" in API group \"\" at the cluster scope";
    assert_eq!((&answer["message"], &answer["details"]), (&json!(message), &json!({"kind": "secrets"})));
    // Any credential that proves someone will do.
    assert_eq!(carol.with_token("wrong").get("/api").await.0, 200);

    // Another authority's certificate does not even come to a request.
    let other = Served::start(Options::default()).await;
    let groups = ["system:masters".to_owned()];
    let now = autovibe::clock::Clock::system().now();
    let hour = std::time::Duration::from_hours(1);
    let (certificate, key) = autovibe::apiserver::client_certificate(&other.directory, "eve", &groups, hour, now).unwrap();
    let try_with = |certificate: String, key: String| {
        let ca = reqwest::Certificate::from_pem(&std::fs::read(admin.directory.join("ca.crt")).unwrap()).unwrap();
        let identity = reqwest::Identity::from_pem(format!("{certificate}{key}").as_bytes()).unwrap();
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([ca]).identity(identity).build().unwrap();
        http.get(format!("{}/api", admin.url)).send()
    };
    assert!(try_with(certificate, key).await.is_err());
    // Nor does one whose time is up, or the server's own kind of certificate.
    let before = now - jiff::SignedDuration::from_hours(2);
    let (certificate, key) = autovibe::apiserver::client_certificate(&admin.directory, "carol", &[], hour, before).unwrap();
    assert!(try_with(certificate, key).await.is_err());
    let (certificate, key) = autovibe::apiserver::client_certificate(&admin.directory, "carol", &[], hour, now).unwrap();
    assert_eq!(try_with(certificate, key).await.unwrap().status().as_u16(), 200);
}

#[tokio::test]
async fn impersonation_takes_the_right_to_it_and_is_never_ignored() {
    let admin = Served::shared();
    admin.namespace("impersonation").await;
    let as_who = |client: &Client, headers: &[(&'static str, &str)]| {
        let mut request = client.request(Method::POST, WHOAMI).json(&json!({}));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let client = client.again();
        async move { client.send(request).await }
    };
    let seen = |answer: &Value| answer["status"]["userInfo"].clone();
    let (_, answer) =
        as_who(&admin, &[("Impersonate-User", "eve"), ("Impersonate-Group", "x"), ("Impersonate-Group", "y"), ("Impersonate-Uid", "7")])
            .await;
    assert_eq!(seen(&answer), json!({"username": "eve", "uid": "7", "groups": ["x", "y", "system:authenticated"]}));
    let (_, answer) = as_who(&admin, &[("Impersonate-User", "system:serviceaccount:impersonation:bot")]).await;
    assert_eq!(seen(&answer)["groups"], json!(["system:serviceaccounts", "system:serviceaccounts:impersonation", "system:authenticated"]));
    for (headers, code, message) in [
        (vec![("Impersonate-Group", "x")], 400, "without impersonating a user"),
        (vec![("Impersonate-User", "eve"), ("Impersonate-Extra-Scope", "x")], 400, "impersonate-extra-scope is not supported"),
    ] {
        let (got, answer) = as_who(&admin, &headers).await;
        assert_eq!(got, code, "{answer}");
        assert!(answer["message"].as_str().unwrap().contains(message), "{answer}");
    }
    // The impersonated user's rights count, not the sender's.
    let request = admin.request(Method::GET, "/api/v1/secrets").header("Impersonate-User", "eve");
    assert_eq!(admin.send(request).await.0, 403);

    let bot = admin.with_token(&account(&admin, "impersonation", "bot").await);
    for (headers, message) in [
        (
            vec![("Impersonate-User", "eve")],
            "users \"eve\" is forbidden: User \"system:serviceaccount:impersonation:bot\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope",
        ),
        (
            vec![("Impersonate-User", "system:serviceaccount:impersonation:default")],
            "serviceaccounts \"default\" is forbidden: User \"system:serviceaccount:impersonation:bot\" cannot impersonate resource \"serviceaccounts\" in API group \"\" in the namespace \"impersonation\"",
        ),
    ] {
        let (code, answer) = as_who(&bot, &headers).await;
        assert_eq!((code, answer["message"].as_str().unwrap()), (403, message));
    }
    bind(&admin, "impersonation", "edit", "edit", to_account("impersonation", "bot")).await;
    let account = [("Impersonate-User", "system:serviceaccount:impersonation:default")];
    assert_eq!(as_who(&bot, &account).await.0, 201, "edit may be the accounts of its namespace");
    // But not take a group along to that.
    let masters = [account[0], ("Impersonate-Group", "system:masters")];
    assert_eq!(as_who(&bot, &masters).await.0, 403);
    let bare = admin.http.get(format!("{}/api", admin.url)).header("Impersonate-User", "system:anonymous");
    assert_eq!(admin.send(bare).await.0, 401);
}

#[tokio::test]
async fn a_watch_ends_when_the_right_to_it_does() {
    let admin = Served::shared();
    admin.namespace("watched").await;
    let bot = admin.with_token(&account(&admin, "watched", "bot").await);
    bind(&admin, "watched", "bot", "view", to_account("watched", "bot")).await;
    bind(&admin, "watched", "other", "view", to_person("User", "other")).await;
    let path = "/api/v1/namespaces/watched/configmaps";
    let mut watch = bot.watch(&format!("{path}?watch=true")).await;
    let map = |name: &str| json!({"metadata": {"name": name}});
    assert_eq!(admin.post(path, &map("seen")).await.0, 201);
    assert_eq!(watch.named().await, ("ADDED".into(), "seen".into()));
    assert_eq!(admin.delete(&format!("{}/namespaces/watched/rolebindings/bot", super::RBAC)).await.0, 200);
    assert_eq!(bot.get(path).await.0, 403, "at once for a new request");
    assert!(watch.next().await.is_none(), "and soon for an old one");
}

/// An agent's token is for the gateway alone.
#[tokio::test]
async fn a_machines_token_is_nobodys_here() {
    use sha2::Digest;
    let server = Served::start(Options::default()).await;
    let token = format!("av_{}", "5".repeat(64));
    let hash = sha2::Sha256::digest(&token).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    let stored: Result<(), autovibe::store::Error> =
        server.objects.store().write(move |t| Box::pin(async move { t.put_token(&hash, "uid", "default", "m").await })).await;
    stored.unwrap();
    for path in
        [WHOAMI, "/api", "/version", "/apis/autovibe.dev/v1alpha1/namespaces/default/machines/m", "/api/v1/namespaces/default/secrets"]
    {
        assert_eq!(server.with_token(&token).get(path).await.0, 401, "{path}");
    }
    server.stop().await;
}
