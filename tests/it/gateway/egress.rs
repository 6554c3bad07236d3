//! The way out by real programs: curl, git, pip and the agents' own CLIs reach by the gateway's proxy what a Machine may reach, and
//! nothing else; and raw bytes for what no program sends.

use super::{upstream::Script, *};
use autovibe::api::network::{Blocked, BlockedReason, Egress, Network};
use rustls::pki_types::pem::PemObject;
use std::sync::{Arc, Mutex};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// A server on TLS for `localhost` that gives the files of a directory.
struct Site {
    port: u16,
    dir: tempfile::TempDir,
    /// Heads of the requests that it got.
    heads: Arc<Mutex<Vec<String>>>,
}

impl Site {
    async fn start() -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let dir = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(dir.path().join("ca.pem"), made.cert.pem()).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let site = Self { port: listener.local_addr().unwrap().port(), dir, heads: Arc::default() };
        let (root, heads) = (site.dir.path().to_owned(), site.heads.clone());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (acceptor, root, heads) = (acceptor.clone(), root.clone(), heads.clone());
                tokio::spawn(async move {
                    let mut tls = acceptor.accept(socket).await.ok()?;
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(tls.read_u8().await.ok()?);
                    }
                    let head = String::from_utf8(head).ok()?;
                    let path = head.split(' ').nth(1)?.split('?').next()?.trim_matches('/').to_owned();
                    heads.lock().unwrap().push(head);
                    let file = root.join(&path);
                    let file = if file.is_dir() { file.join("index.html") } else { file };
                    let (status, body) = std::fs::read(file).map_or(("404 Not Found", Vec::new()), |body| ("200 OK", body));
                    let kind = if path.contains('.') { "application/octet-stream" } else { "text/html" };
                    let head =
                        format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                    tls.write_all(head.as_bytes()).await.ok()?;
                    tls.write_all(&body).await.ok()?;
                    tls.shutdown().await.ok()
                });
            }
        });
        site
    }

    fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}/{path}", self.port)
    }

    fn ca(&self) -> String {
        self.dir.path().join("ca.pem").display().to_string()
    }
}

fn network(hosts: &[(&str, u16)]) -> Option<Network> {
    Some(Network { egress: hosts.iter().map(|(host, port)| Egress { host: (*host).into(), ports: vec![*port] }).collect() })
}

impl Home {
    /// Opens this machine to its Machines, as its owner may.
    async fn open_local(&self) {
        let mut hub: Hub = self.objects.get("", "default").await.unwrap().unwrap();
        hub.spec.egress.networks = vec!["127.0.0.1/32".into()];
        self.objects.update(&hub).await.unwrap();
        // The gateway hears of it by its watch.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }

    /// A program in the environment that a guest's agent has.
    async fn run(&self, guest: &Guest, program: &str, args: &[&str]) -> std::process::Output {
        let gateway_url = format!("http://{}", self.gateway);
        let launch =
            agent::launch(&guest.machine, &agent::Start { number: 1, gateway_url: &gateway_url, key: &guest.key, token: &guest.token });
        let mut environment = launch.environment;
        // Here the hosts that are reached are this one.
        for name in ["NO_PROXY", "no_proxy"] {
            assert_eq!(environment.remove(name).unwrap(), "127.0.0.1,localhost,127.0.0.1,::1");
        }
        let mut command = tokio::process::Command::new(program);
        // Nothing else of this process: it may name certificates and proxies of its own.
        command.args(args).env_clear().envs(environment).env("PATH", env!("PATH")).env("HOME", self.dir.path());
        tokio::time::timeout(Duration::from_mins(2), command.stdin(Stdio::null()).kill_on_drop(true).output())
            .await
            .expect("it ends")
            .unwrap()
    }

    /// What the gateway answers to the head of a request, and the connection.
    async fn answered(&self, head: &str) -> (String, TcpStream) {
        let mut socket = TcpStream::connect(self.gateway).await.unwrap();
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(socket.read_u8().await.unwrap());
        }
        (String::from_utf8(answer).unwrap(), socket)
    }

    async fn connect(&self, target: &str, token: &str) -> (String, TcpStream) {
        self.answered(&format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nProxy-Authorization: Bearer {token}\r\n\r\n")).await
    }

    /// The status that the gateway answers with, and its words.
    async fn refusal(&self, target: &str, token: &str) -> (u16, String) {
        let (head, mut socket) = self.connect(target, token).await;
        let mut words = String::new();
        socket.read_to_string(&mut words).await.unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), words)
    }

    async fn change(&self, guest: &Guest, change: impl Fn(&mut Machine)) {
        for _ in 0..20 {
            let mut machine: Machine = self.objects.get("default", guest.machine.name()).await.unwrap().unwrap();
            change(&mut machine);
            if self.objects.update(&machine).await.is_ok() {
                return;
            }
        }
        panic!("the Machine was not changed");
    }

    async fn blocked(&self, guest: &Guest, count: usize) -> Vec<Blocked> {
        eventually(&format!("{count} are blocked"), async || {
            let machine: Machine = self.objects.get("default", guest.machine.name()).await.unwrap()?;
            Some(machine.status?.network.unwrap_or_default().blocked).filter(|blocked| blocked.len() >= count)
        })
        .await
    }

    async fn events(&self, reason: &str) -> Vec<String> {
        let query = autovibe::store::Query { resource: "events".into(), ..autovibe::store::Query::default() };
        let listed = self.objects.store().list(&query).await.unwrap().items;
        let of = |event: &Value| (event["reason"] == reason).then(|| event["message"].as_str().unwrap().to_owned());
        listed.iter().filter_map(|item| of(&item.document)).collect()
    }
}

/// Waits until a connection is cut.
async fn cut(mut socket: TcpStream) {
    let end = tokio::time::timeout(Duration::from_secs(8), socket.read(&mut [0; 16])).await.expect("it is cut soon");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_reach_what_is_allowed_and_are_told_of_the_rest() {
    let (site, upstream) = (Site::start().await, Upstream::start(|_| Script::words(1)).await);
    let home = Home::start(&upstream).await;
    home.open_local().await;
    let guest = home.guest("m", |spec| spec.network = network(&[("localhost", site.port)])).await;

    site.write("hello.txt", "hello from there\n");
    let curl = home.run(&guest, "curl", &["-sS", "--cacert", &site.ca(), &site.url("hello.txt")]).await;
    assert_eq!(String::from_utf8_lossy(&curl.stdout), "hello from there\n", "{}", said(&curl));
    {
        let heads = site.heads.lock().unwrap();
        assert!(!heads[0].to_lowercase().contains("proxy-authorization") && !heads[0].contains(&guest.token), "{heads:?}");
    }

    let script = "set -e; git init -q r; cd r; git -c user.name=a -c user.email=a@b commit -q --allow-empty -m first; cd ..; \
                  git clone -q --bare r \"$1/r.git\"; cd \"$1/r.git\"; git update-server-info";
    let work = tempfile::tempdir().unwrap();
    let made = std::process::Command::new("sh").args(["-c", script, "sh"]).arg(site.dir.path()).current_dir(&work).status().unwrap();
    assert!(made.success());
    let (ca, there) = (format!("http.sslCAInfo={}", site.ca()), work.path().join("cloned").display().to_string());
    let git = home.run(&guest, "git", &["-c", &ca, "clone", "-q", &site.url("r.git"), &there]).await;
    assert!(git.status.success() && Path::new(&there).join(".git/HEAD").exists(), "{}", said(&git));

    let asked = format!("import requests; print(requests.get({:?}, verify={:?}).text)", site.url("hello.txt"), site.ca());
    let python = home.run(&guest, "python3", &["-c", &asked]).await;
    assert!(said(&python).contains("hello from there"), "{}", said(&python));

    let wheel = "import sys, zipfile; z = zipfile.ZipFile(sys.argv[1], 'w'); d = 'foo-1.0.dist-info/'; z.writestr('foo.py', 'x = 1'); \
                 z.writestr(d + 'METADATA', 'Metadata-Version: 2.1\\nName: foo\\nVersion: 1.0\\n'); \
                 z.writestr(d + 'WHEEL', 'Wheel-Version: 1.0\\nTag: py3-none-any\\n'); z.writestr(d + 'RECORD', '')";
    site.write("simple/foo/index.html", "<a href=\"/foo-1.0-py3-none-any.whl\">foo-1.0-py3-none-any.whl</a>");
    let file = site.dir.path().join("foo-1.0-py3-none-any.whl");
    assert!(std::process::Command::new("python3").args(["-c", wheel]).arg(&file).status().unwrap().success());
    let into = work.path().join("wheels").display().to_string();
    let args = ["-m", "pip", "--disable-pip-version-check", "download", "--no-deps", "--no-cache-dir", "--retries", "0", "-d", &into, "-i"];
    let (index, ca) = (site.url("simple"), site.ca());
    let args = [&args[..], &[&index, "--cert", &ca, "foo"]].concat();
    let pip = home.run(&guest, "python3", &args).await;
    assert!(pip.status.success() && Path::new(&into).join("foo-1.0-py3-none-any.whl").exists(), "{}", said(&pip));

    for host in ["pypi.org", "registry.npmjs.org", "pypi.org"] {
        let refused = home.run(&guest, "curl", &["-sSv", &format!("https://{host}/")]).await;
        let told = said(&refused);
        assert!(!refused.status.success() && told.contains("403"), "{told}");
    }
    let git = home.run(&guest, "git", &["ls-remote", "https://github.example/x/y.git"]).await;
    assert!(said(&git).contains("403"), "{}", said(&git));
    let (status, words) = home.refusal("pypi.org:443", &guest.token).await;
    let remedy = "- {host: \"pypi.org\", ports: [443]}";
    assert!(status == 403 && words.contains(remedy), "{words}");

    let blocked = home.blocked(&guest, 3).await;
    let hosts: Vec<&str> = blocked.iter().map(|blocked| blocked.host.as_str()).collect();
    assert!(["pypi.org", "registry.npmjs.org", "github.example"].iter().all(|host| hosts.contains(host)), "{blocked:?}");
    let counted = async || home.blocked(&guest, 3).await.into_iter().find(|blocked| blocked.host == "pypi.org" && blocked.count == 3);
    let pypi = eventually("pypi.org is counted", counted).await;
    assert!(pypi.reason == BlockedReason::NotAllowed && pypi.port == 443 && pypi.last_at.is_some(), "{pypi:?}");
    let events = home.events("EgressBlocked").await;
    assert_eq!(events.iter().filter(|message| message.contains("pypi.org:443")).count(), 1, "{events:?}");
    assert!(events.iter().any(|message| message.contains(remedy)), "{events:?}");
    assert!(!format!("{events:?}{blocked:?}").contains(&guest.token));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_token_of_a_machine_that_may_opens_a_connection() {
    let (site, upstream) = (Site::start().await, Upstream::start(|_| Script::words(1)).await);
    let home = Home::start(&upstream).await;
    home.open_local().await;
    let target = format!("localhost:{}", site.port);
    let guest = home.guest("m", |spec| spec.network = network(&[("localhost", site.port)])).await;
    let other = home.guest("other", |_| {}).await;
    assert!(home.connect(&target, &guest.token).await.0.starts_with("HTTP/1.1 200"));
    let (none, _) = home.answered(&format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")).await;
    assert!(none.starts_with("HTTP/1.1 407") && none.to_lowercase().contains("proxy-authenticate: basic"), "{none}");
    let stale = wire::runner::token_of(&wire::runner::key(Sha256::digest("an earlier launch").into())).unwrap();
    assert_eq!(home.refusal(&target, &stale).await.0, 407);
    assert_eq!(home.refusal(&target, &guest.key).await.0, 407, "the runner's key is no token");
    // Where an agent's token belongs otherwise, it says nothing to a proxy.
    let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nAuthorization: Bearer {}\r\n\r\n", guest.token);
    assert!(home.answered(&head).await.0.starts_with("HTTP/1.1 407"));
    let (status, words) = home.refusal(&target, &other.token).await;
    assert!(status == 403 && words.contains("spec.network.egress does not have it"), "{words}");
    assert_eq!(home.blocked(&other, 1).await[0].host, "localhost");
    assert!(home.blocked(&guest, 0).await.is_empty());
    let mut machine: Machine = home.objects.get("default", "m").await.unwrap().unwrap();
    machine.status.as_mut().unwrap().phase = Phase::Succeeded;
    home.objects.update_status(&machine).await.unwrap();
    let ended =
        eventually("it has ended", async || Some(home.refusal(&target, &guest.token).await).filter(|(status, _)| *status == 403)).await;
    assert!(ended.1.contains("has ended"), "{}", ended.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_cut_when_nothing_allows_it_any_more() {
    let (site, upstream) = (Site::start().await, Upstream::start(|_| Script::words(1)).await);
    let home = Home::start(&upstream).await;
    home.open_local().await;
    let target = format!("localhost:{}", site.port);
    let hosts = [("localhost", site.port), ("pypi.org", 443)];
    let guests = [
        home.guest("list", |spec| spec.network = network(&hosts)).await,
        home.guest("ended", |spec| spec.network = network(&hosts)).await,
        home.guest("deleted", |spec| spec.network = network(&hosts)).await,
        home.guest("launched", |spec| spec.network = network(&hosts)).await,
        home.guest("kept", |spec| spec.network = network(&hosts)).await,
    ];
    let mut open = Vec::new();
    for guest in &guests {
        let (head, socket) = home.connect(&target, &guest.token).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        open.push(socket);
    }
    let [list, ended, deleted, launched, kept]: [TcpStream; 5] = open.try_into().unwrap();
    home.change(&guests[0], |machine| machine.spec.network = network(&hosts[1..])).await;
    cut(list).await;
    let mut machine: Machine = home.objects.get("default", "ended").await.unwrap().unwrap();
    machine.status.as_mut().unwrap().phase = Phase::Failed;
    home.objects.update_status(&machine).await.unwrap();
    cut(ended).await;
    home.objects.delete::<Machine>("default", "deleted", None).await.unwrap();
    cut(deleted).await;
    // As a new launch does; its status tells of that.
    let uid = guests[3].machine.uid().to_owned();
    let revoked: Result<(), autovibe::store::Error> =
        home.objects.store().write(move |t| Box::pin(async move { t.revoke_tokens(&uid).await })).await;
    revoked.unwrap();
    home.change(&guests[3], |machine| machine.metadata.labels = Some([("launch".to_owned(), "2".to_owned())].into())).await;
    cut(launched).await;
    let mut kept = kept;
    let still = tokio::time::timeout(Duration::from_millis(200), kept.read(&mut [0; 16])).await;
    assert!(still.is_err(), "that one is allowed: {still:?}");
    let started = std::time::Instant::now();
    let mut home = home;
    home.stop().await;
    assert!(started.elapsed() < Duration::from_secs(5), "who waits in a connection does not keep the hub from stopping");
    cut(kept).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_no_way_to_an_address_that_is_not_open_nor_to_another_server() {
    let (site, upstream) = (Site::start().await, Upstream::start(|_| Script::words(1)).await);
    let home = Home::start(&upstream).await;
    let target = format!("localhost:{}", site.port);
    let hosts = [("localhost", site.port), ("localhost.localdomain", 443)];
    let guest = home.guest("m", |spec| spec.network = network(&hosts)).await;
    let (status, words) = home.refusal(&target, &guest.token).await;
    assert!(status == 403 && words.contains("spec.egress.networks of Hub default"), "{words}");
    assert_eq!(home.blocked(&guest, 1).await[0].reason, BlockedReason::PrivateAddress);
    for address in
        [format!("127.0.0.1:{}", site.port), format!("[::1]:{}", site.port), home.gateway.to_string(), "169.254.169.254:80".into()]
    {
        let (status, words) = home.refusal(&address, &guest.token).await;
        assert!(status == 403 && words.contains("only names"), "{address}: {words}");
    }
    assert_eq!(home.refusal("localhost", &guest.token).await.0, 400);
    let (plain, _) = home.answered("GET http://pypi.org/simple/ HTTP/1.1\r\nHost: pypi.org\r\n\r\n").await;
    assert!(plain.starts_with("HTTP/1.1 403"), "{plain}");

    home.open_local().await;
    // The name in the greeting of TLS is another one.
    let (head, mut socket) = home.connect(&target, &guest.token).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_file(site.ca()).unwrap()).unwrap();
    let config = Arc::new(rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth());
    let mut hello = Vec::new();
    let mut client = rustls::ClientConnection::new(config.clone(), "fronted.example".try_into().unwrap()).unwrap();
    client.write_tls(&mut hello).unwrap();
    socket.write_all(&hello).await.unwrap();
    cut(socket).await;
    let blocked = home.blocked(&guest, 2).await;
    assert_eq!((blocked[0].host.as_str(), blocked[0].reason), ("fronted.example", BlockedReason::OtherServer), "{blocked:?}");
    assert!(site.heads.lock().unwrap().is_empty(), "nothing of it got there");
    // The right name byte by byte is fine.
    let (_, mut socket) = home.connect(&target, &guest.token).await;
    let mut hello = Vec::new();
    let mut client = rustls::ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
    client.write_tls(&mut hello).unwrap();
    for byte in hello {
        socket.write_all(&[byte]).await.unwrap();
    }
    assert_eq!(tokio::time::timeout(Duration::from_secs(8), socket.read_u8()).await.unwrap().unwrap(), 22, "the server greets back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_has_so_many_connections_and_bytes_pass_as_they_are() {
    let upstream = Upstream::start(|_| Script::words(1)).await;
    let home = Home::start(&upstream).await;
    home.open_local().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("localhost:{}", listener.local_addr().unwrap().port());
    let guest = home.guest("m", |spec| spec.network = network(&[("localhost", listener.local_addr().unwrap().port())])).await;
    // A server that speaks first, and a client that ends first.
    let (_, mut socket) = home.connect(&target, &guest.token).await;
    let (mut server, _) = listener.accept().await.unwrap();
    server.write_all(b"220 hello\r\n").await.unwrap();
    let mut first = [0; 11];
    socket.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"220 hello\r\n");
    let much: Vec<u8> = (0..1_000_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let sent = much.clone();
    let sending = tokio::spawn(async move {
        socket.write_all(&sent).await.unwrap();
        socket.shutdown().await.unwrap();
        let mut back = Vec::new();
        socket.read_to_end(&mut back).await.unwrap();
        back
    });
    let mut got = Vec::new();
    server.read_to_end(&mut got).await.unwrap();
    assert!(got == much, "{} bytes got there", got.len());
    server.write_all(b"done").await.unwrap();
    drop(server);
    assert_eq!(sending.await.unwrap(), b"done");

    let mut open = Vec::new();
    for _ in 0..64 {
        let (head, socket) = home.connect(&target, &guest.token).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{}: {head}", open.len());
        open.push((socket, listener.accept().await.unwrap()));
    }
    let (status, words) = home.refusal(&target, &guest.token).await;
    assert!(status == 503 && words.contains("64 connections"), "{words}");
    let other = home.guest("other", |spec| spec.network = guest.machine.spec.network.clone()).await;
    assert!(home.connect(&target, &other.token).await.0.starts_with("HTTP/1.1 200"), "another's are its own");
    drop(open);
    eventually("a place is free", async || home.connect(&target, &guest.token).await.0.starts_with("HTTP/1.1 200").then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agents_reach_their_gateway_as_before() {
    for (program, agent) in [
        ("claude", Agent { model: Some("claude-opus-4-8".into()), ..Agent::default() }),
        ("qwen", Agent { r#type: AgentType::QwenCode, model: Some("qwen3-coder-plus".into()), ..Agent::default() }),
        ("aider", Agent { r#type: AgentType::Aider, model: Some("gpt-4.1".into()), ..Agent::default() }),
    ] {
        let Some(path) = installed(program) else { continue };
        let upstream = Upstream::start(|_| Script::HangUp).await;
        let home = Home::start(&upstream).await;
        let text = "tokensPerSecond: 0\nthinkSeconds: 0\nconversations:\n  - match: say hello\n    turns:\n      - text: Hello.\n";
        std::fs::write(home.dir.path().join("conversations.yaml"), text).unwrap();
        let guest = home
            .guest("m", |spec| {
                spec.agent = agent;
                spec.goal.prompt = "Please say hello".into();
                spec.network = network(&[("example.org", 443)]);
            })
            .await;
        let mut command = home.agent(&path, &guest, 1);
        command.env("IS_SANDBOX", "1");
        let output = tokio::time::timeout(Duration::from_mins(2), command.output()).await.expect("it ends").unwrap();
        let last = home.last_call(&guest).await;
        let reason = last.and_then(|last| last.stop_reason);
        assert_eq!(reason.as_deref(), Some("end_turn"), "{program}: {}", said(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_guest_gets_out_by_the_proxy_alone_and_to_what_is_allowed_alone() {
    if let Some(reason) = crate::real::lacking() {
        eprintln!("SKIPPED a_real_guest_gets_out_by_the_proxy_alone_and_to_what_is_allowed_alone: {reason}");
        return;
    }
    let upstream = Upstream::start(|_| Script::words(1)).await;
    let home = Home::start(&upstream).await;
    home.open_local().await;
    let requests = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let server = crate::real::gateway(requests.clone()).await;
    let allowed = home.guest("m", |spec| spec.network = network(&[("localhost", server.port())])).await;

    let disk = home.dir.path().join("disk.raw");
    std::fs::copy(crate::real::micro_image().await, &disk).unwrap();
    let data = tempfile::tempdir().unwrap();
    let qemu = autovibe::lab::real::Qemu::over(data.path(), home.gateway, env!("CARGO_BIN_EXE_autovibe").into()).await.unwrap();
    let config = [
        ("name", "m"),
        ("memory", "256"),
        ("agent", "enabled=1"),
        ("scsi0", "x"),
        ("net0", "virtio,bridge=vmbr0"),
        ("boot", "order=scsi0"),
    ];
    let config = config.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    qemu.start(100, &config, &[disk]).await.unwrap();
    let vm = crate::real::Guest { qemu: &qemu, vmid: 100 };
    vm.up().await;

    let url = url::Url::parse(&qemu.gateway_url()).unwrap();
    let (host, port) = (url.host_str().unwrap(), url.port_or_known_default().unwrap());
    let through = |target: &str, token: &str| {
        let head = format!("CONNECT {target} HTTP/1.1\\r\\nHost: {target}\\r\\nProxy-Authorization: Bearer {token}\\r\\n\\r\\n");
        format!("printf '{head}GET /x HTTP/1.0\\r\\n\\r\\n' | timeout 20 nc {host} {port}")
    };
    let (_, got) = vm.sh(&through(&format!("localhost:{}", server.port()), &allowed.token)).await;
    assert!(got.starts_with("HTTP/1.1 200") && got.ends_with("gateway\n"), "{got}");
    assert_eq!(requests.load(std::sync::atomic::Ordering::SeqCst), 1);
    let (_, got) = vm.sh(&through("pypi.org:443", &allowed.token)).await;
    assert!(got.starts_with("HTTP/1.1 403") && got.contains("spec.network.egress does not have it"), "{got}");
    let (_, got) = vm.sh(&through(&format!("localhost:{}", server.port()), "av_nobodys")).await;
    assert!(got.starts_with("HTTP/1.1 407"), "{got}");
    // Past the proxy there is no way to the very server that it leads to.
    let (code, _) = vm.sh(&format!("timeout 5 nc -w 3 10.0.2.2 {} </dev/null", server.port())).await;
    assert_ne!(code, 0);
    assert_eq!(requests.load(std::sync::atomic::Ordering::SeqCst), 1);
    let blocked = home.blocked(&allowed, 1).await;
    assert_eq!((blocked[0].host.as_str(), blocked.len()), ("pypi.org", 1), "{blocked:?}");
    qemu.stop(100).await.unwrap();
}
