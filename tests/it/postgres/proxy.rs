//! A proxy before PostgreSQL that reads what the server says, and cuts or drops just that.
//! Source: PostgreSQL, chapter "Frontend/Backend Protocol", message formats.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{
    TcpListener, TcpStream, UnixStream,
    unix::{OwnedReadHalf, OwnedWriteHalf},
};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// Once: the server has committed, its answer does not come.
    CutAfterCommit,
    /// Once: the commit does not come to the server.
    CutBeforeCommit,
    /// Once: what is asked with this in it does not come to the server.
    CutAsked(&'static str),
    /// Once: what is asked with this in it is on its way for so long that its connection is given up. It comes to the server when
    /// that has answered whether it was committed, before this answer comes here; which counts once more.
    LateAsked(&'static str),
    /// Once: the server has committed a replacement, and does not come to say so.
    CutAfterReplacement,
    /// All notifications.
    DropNotifications,
}

struct State {
    /// The server's socket.
    server: PathBuf,
    fault: Fault,
    injected: u32,
    late: Option<Late>,
    /// Connections that were made.
    made: u64,
    /// Questions that were asked: what came at once from a client.
    asked: u64,
    /// Those before this one say nothing any more, in either direction, and stay open.
    silent: u64,
}

/// What is still on its way.
struct Late {
    asked: Vec<u8>,
    to_server: OwnedWriteHalf,
    from_server: OwnedReadHalf,
}

impl Late {
    /// It comes to the server, which does what it asks.
    async fn arrive(mut self) {
        self.to_server.write_all(&self.asked).await.unwrap();
        while message(&mut self.from_server).await.unwrap().0[0] != b'Z' {}
    }
}

pub(super) struct Proxy {
    state: Arc<Mutex<State>>,
    port: u16,
}

impl Proxy {
    /// Runs as long as the test's runtime.
    pub(super) async fn start(server: PathBuf) -> Self {
        let state = Arc::new(Mutex::new(State { server, fault: Fault::None, injected: 0, late: None, made: 0, asked: 0, silent: 0 }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = state.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                client.set_nodelay(true).unwrap();
                let (server, number) = {
                    let mut state = shared.lock().unwrap();
                    state.made += 1;
                    (state.server.clone(), state.made)
                };
                // One that does not run is one that hangs up.
                if let Ok(server) = UnixStream::connect(&server).await {
                    tokio::spawn(forward(client, server, shared.clone(), number));
                }
            }
        });
        Self { state, port }
    }

    /// The URL of the same database through here.
    pub(super) fn url(&self, direct: &str) -> String {
        let name = direct.strip_prefix("postgres:///").unwrap().split('?').next().unwrap();
        format!("postgres://autovibe@127.0.0.1:{}/{name}?sslmode=disable", self.port)
    }

    pub(super) fn arm(&self, fault: Fault) {
        self.state.lock().unwrap().fault = fault;
    }

    /// From now on the connections that there are swallow all that is sent.
    pub(super) fn silence(&self) {
        let mut state = self.state.lock().unwrap();
        state.silent = state.made + 1;
    }

    /// How many connections there have been.
    pub(super) fn made(&self) -> u64 {
        self.state.lock().unwrap().made
    }

    /// How many questions there have been.
    pub(super) fn asked(&self) -> u64 {
        self.state.lock().unwrap().asked
    }

    /// From now on new connections lead to another server.
    pub(super) fn turn(&self, server: PathBuf) {
        self.state.lock().unwrap().server = server;
    }

    /// How many faults were injected.
    pub(super) fn faults(&self) -> u32 {
        self.state.lock().unwrap().injected
    }
}

/// Whether this fault is due; one that cuts is due once.
fn due(state: &Mutex<State>, fault: Fault) -> bool {
    let mut state = state.lock().unwrap();
    let due = state.fault == fault;
    if due {
        state.injected += 1;
        if fault != Fault::DropNotifications {
            state.fault = Fault::None;
        }
    }
    due
}

/// The head and the body of what the server says next, if it says anything.
async fn message(from_server: &mut OwnedReadHalf) -> Option<([u8; 5], Vec<u8>)> {
    let mut head = [0; 5];
    from_server.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
    let mut body = vec![0; length - 4];
    from_server.read_exact(&mut body).await.ok()?;
    Some((head, body))
}

/// Until either side ends, or a cut.
async fn forward(client: TcpStream, server: UnixStream, state: Arc<Mutex<State>>, number: u64) {
    let silent = || number < state.lock().unwrap().silent;
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) = (client.into_split(), server.into_split());
    let looks_up = AtomicBool::new(false);
    let mut late = None;
    let asked = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
            if silent() {
                continue;
            }
            let fault = {
                let mut state = state.lock().unwrap();
                state.asked += 1;
                state.fault
            };
            let asks = |what: &str| buffer[..count].windows(what.len()).any(|part| part == what.as_bytes());
            if matches!(fault, Fault::CutAsked(what) if asks(what)) && due(&state, fault) {
                return;
            }
            if matches!(fault, Fault::LateAsked(what) if asks(what)) && due(&state, fault) {
                late = Some(buffer[..count].to_vec());
                return;
            }
            if asks("FROM writers WHERE writer") {
                looks_up.store(true, Ordering::Relaxed);
            }
            // Our commits are the end of a simple query, which comes in one piece.
            if buffer[..count].ends_with(b"; COMMIT\0") && due(&state, Fault::CutBeforeCommit) {
                return;
            }
            if to_server.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    };
    let answered = async {
        let mut replaced = false;
        while let Some((head, body)) = message(&mut from_server).await {
            if silent() {
                continue;
            }
            match head[0] {
                // CommandComplete
                b'C' if body == b"COMMIT\0" && due(&state, Fault::CutAfterCommit) => return,
                // DataRow of two columns, a number and an empty text
                b'D' if body.starts_with(&[0, 2]) && body.ends_with(&[0; 4]) => replaced = true,
                // ReadyForQuery, which follows the commit
                b'Z' if replaced && due(&state, Fault::CutAfterReplacement) => return,
                b'Z' => {
                    replaced = false;
                    let late = if looks_up.load(Ordering::Relaxed) { state.lock().unwrap().late.take() } else { None };
                    if let Some(late) = late {
                        state.lock().unwrap().injected += 1;
                        late.arrive().await;
                    }
                }
                // NotificationResponse
                b'A' if due(&state, Fault::DropNotifications) => continue,
                _ => {}
            }
            if to_client.write_all(&[&head[..], &body].concat()).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = asked => {}
        () = answered => {}
    }
    if let Some(asked) = late {
        state.lock().unwrap().late = Some(Late { asked, to_server, from_server });
    }
}
