//! What stands between one incarnation of a hub and the world: each commit and each call is a point, numbered in the order in
//! which they come. At a point the hub may die, or the call may go wrong.

use autovibe::wire::{NoAnswer, Service};
use autovibe::{store, zfs};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// More points than any life has that goes on: a hub that passes so many is in a loop, and ends.
const MOST_POINTS: usize = 20_000;

/// Where in a call, or around a commit, the hub is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Moment {
    BeforeSend,
    /// It was done, and its answer is not read yet. To die right after the answer is to die before the next point.
    AfterDone,
    BeforeCommit,
    AfterCommit,
}

/// One point of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Point {
    /// `POST …/qemu`, `zfs clone`, `commit`
    pub(super) what: String,
    pub(super) moment: Moment,
    /// Time since the gate was made.
    pub(super) at: Duration,
}

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// It never arrives, and its connection breaks.
    LoseRequest,
    /// It is done, and its connection breaks before an answer.
    LoseReply,
    /// It is done twice, as when a proxy repeats it; the second answer is read.
    Repeat,
    /// It is not done; what the last such read showed is shown again.
    Stale,
    /// It is done, and its answer comes so many milliseconds later.
    Late(u64),
    /// It is not done: Proxmox and `zfs` say this.
    Refuse(&'static str),
}

pub(super) type Decide = Box<dyn FnMut(usize, &str) -> Option<Fault> + Send>;

/// What a run does to a hub.
#[derive(Default)]
pub(super) struct Plan {
    /// The hub dies at the point of this number, counted from its start.
    pub(super) die_at: Option<usize>,
    /// At the point of this number the hub waits, if it is one of a call, until [`Gate::go_on`]; see [`Gate::met`].
    pub(super) meet_at: Option<usize>,
    /// Decides about each call: its number among the calls, and what it is.
    pub(super) fault: Option<Decide>,
}

struct State {
    plan: Plan,
    began: Instant,
    points: Vec<Point>,
    calls: usize,
    /// How often each fault struck.
    struck: BTreeMap<Fault, usize>,
    dead: bool,
    /// The last answer to each read.
    shown: BTreeMap<String, Answer>,
}

#[derive(Clone)]
enum Answer {
    Http(u16, Option<hyper::ext::ReasonPhrase>, bytes::Bytes),
    Zfs(zfs::Output),
}

/// The gate of one incarnation.
#[derive(Clone)]
pub(super) struct Gate {
    state: Arc<Mutex<State>>,
    died: Arc<Notify>,
    met: Arc<Notify>,
    goes_on: Arc<Notify>,
}

impl Gate {
    pub(super) fn new(plan: Plan) -> Self {
        let state = State {
            plan,
            began: Instant::now(),
            points: Vec::new(),
            calls: 0,
            struck: BTreeMap::new(),
            dead: false,
            shown: BTreeMap::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), died: Arc::default(), met: Arc::default(), goes_on: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn points(&self) -> Vec<Point> {
        self.state().points.clone()
    }

    pub(super) fn struck(&self) -> BTreeMap<Fault, usize> {
        self.state().struck.clone()
    }

    /// From now on nothing goes wrong.
    pub(super) fn calm(&self) {
        self.state().plan = Plan::default();
    }

    /// The hub dies so many points from now.
    pub(super) fn die_after(&self, points: usize) {
        let mut state = self.state();
        state.plan.die_at = Some(state.points.len() + points);
    }

    /// Returns when the hub has died by its plan.
    pub(super) async fn died(&self) {
        self.died.notified().await;
    }

    /// What the hub did at last, if it goes in a circle.
    pub(super) fn circle(&self) -> Option<Vec<Point>> {
        let state = self.state();
        (state.points.len() > MOST_POINTS).then(|| state.points[MOST_POINTS - 40..].to_vec())
    }

    /// Returns when the hub has come to where it is to be met.
    pub(super) async fn met(&self) {
        self.met.notified().await;
    }

    pub(super) fn go_on(&self) {
        self.goes_on.notify_one();
    }

    pub(super) fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// Nothing of this hub reaches the world any more.
    pub(super) fn kill(&self) {
        self.state().dead = true;
    }

    /// Counts a point; `false` when the hub is dead, now or before.
    fn lives(&self, what: &str, moment: Moment) -> bool {
        let mut state = self.state();
        if state.dead {
            return false;
        }
        let number = state.points.len();
        let at = state.began.elapsed();
        if super::given("AUTOVIBE_TRACE").is_some() {
            eprintln!("{number} {at:?} {moment:?} {what}");
        }
        state.points.push(Point { what: what.to_owned(), moment, at });
        if state.plan.meet_at == Some(number) {
            self.met.notify_one();
        }
        if number >= MOST_POINTS || state.plan.die_at == Some(number) {
            state.dead = true;
            self.died.notify_one();
        }
        !state.dead
    }

    async fn pass(&self, what: &str, moment: Moment) {
        let number = self.state().points.len();
        if !self.lives(what, moment) {
            // The dead wait for ever.
            std::future::pending::<()>().await;
        }
        if self.state().plan.meet_at == Some(number) {
            self.goes_on.notified().await;
        }
    }

    fn fault(&self, what: &str, reads: bool) -> Option<Fault> {
        let mut state = self.state();
        state.calls += 1;
        let number = state.calls;
        let fault = state.plan.fault.as_mut().and_then(|fault| fault(number, what))?;
        let applies = match fault {
            Fault::Stale => reads && state.shown.contains_key(what),
            _ => true,
        };
        applies.then(|| {
            if super::given("AUTOVIBE_TRACE").is_some() {
                eprintln!("^ {fault:?}");
            }
            *state.struck.entry(fault).or_default() += 1;
            fault
        })
    }

    /// For the store.
    pub(super) fn commits(&self) -> store::GoesOn {
        let gate = self.clone();
        Arc::new(move |moment| {
            let moment = match moment {
                store::Moment::BeforeCommit => Moment::BeforeCommit,
                store::Moment::AfterCommit => Moment::AfterCommit,
            };
            gate.lives("commit", moment)
        })
    }

    /// Runs one call through faults and deaths; `None` is no answer.
    async fn call<F: Future<Output = Option<Answer>>>(
        &self,
        what: &str,
        reads: bool,
        refusal: impl Fn(&'static str) -> Answer,
        run: impl Fn() -> F,
    ) -> Option<Answer> {
        self.pass(what, Moment::BeforeSend).await;
        let fault = self.fault(what, reads);
        let answer = match fault {
            Some(Fault::LoseRequest) => return None,
            Some(Fault::Refuse(text)) => Some(refusal(text)),
            Some(Fault::Stale) => self.state().shown.get(what).cloned(),
            Some(Fault::Repeat) => {
                run().await;
                run().await
            }
            _ => run().await,
        };
        self.pass(what, Moment::AfterDone).await;
        match fault {
            Some(Fault::LoseReply) => return None,
            Some(Fault::Late(milliseconds)) => tokio::time::sleep(Duration::from_millis(milliseconds)).await,
            _ => {}
        }
        if reads && let Some(answer) = &answer {
            self.state().shown.insert(what.to_owned(), answer.clone());
        }
        answer
    }

    /// Proxmox behind this gate. `after` is called after each change.
    pub(super) fn proxmox(&self, lab: Service, after: Arc<dyn Fn(&str) + Send + Sync>) -> Service {
        let gate = self.clone();
        Service::new(move |request| {
            let (gate, lab, after) = (gate.clone(), lab.clone(), after.clone());
            Box::pin(async move {
                let reads = request.method() == reqwest::Method::GET;
                let what = name(&request);
                let run = || async {
                    let response = lab.call(request.try_clone().expect("bodies are bytes")).await.ok()?;
                    let (status, reason) = (response.status().as_u16(), response.extensions().get().cloned());
                    let body = response.bytes().await.ok()?;
                    if !reads {
                        after(&what);
                    }
                    Some(Answer::Http(status, reason, body))
                };
                let refusal =
                    |text: &'static str| Answer::Http(500, Some(hyper::ext::ReasonPhrase::from_static(text.as_bytes())), "{}".into());
                match gate.call(&what, reads, refusal, run).await {
                    Some(Answer::Http(status, reason, body)) => Ok(response(status, reason, body)),
                    _ => Err(NoAnswer),
                }
            })
        })
    }

    /// The node's `zfs` behind this gate, likewise.
    pub(super) fn zfs(&self, lab: zfs::Service, after: Arc<dyn Fn(&str) + Send + Sync>) -> zfs::Service {
        let gate = self.clone();
        zfs::Service::new(move |argv| {
            let (gate, lab, after) = (gate.clone(), lab.clone(), after.clone());
            Box::pin(async move {
                let reads = matches!(argv[0].as_str(), "get" | "list" | "holds");
                let what = if reads { format!("zfs {}", argv.join(" ")) } else { format!("zfs {}", argv[0]) };
                let run = || async {
                    let output = lab.call(argv.clone()).await?;
                    if !reads {
                        after(&what);
                    }
                    Some(Answer::Zfs(output))
                };
                let refusal =
                    |text: &'static str| Answer::Zfs(zfs::Output { status: 1, stdout: String::new(), stderr: format!("{text}\n") });
                match gate.call(&what, reads, refusal, run).await {
                    Some(Answer::Zfs(output)) => Some(output),
                    _ => None,
                }
            })
        })
    }
}

pub(super) fn response(status: u16, reason: Option<hyper::ext::ReasonPhrase>, body: bytes::Bytes) -> reqwest::Response {
    let mut response = axum::http::Response::builder().status(status);
    if let (Some(extensions), Some(reason)) = (response.extensions_mut(), reason) {
        extensions.insert(reason);
    }
    response.body(body).unwrap().into()
}

/// `GET /cluster/resources?type=vm`, without what differs from run to run.
fn name(request: &reqwest::Request) -> String {
    let url = request.url();
    let path = url.path().strip_prefix("/api2/json").unwrap_or(url.path());
    // Task ids hold times and process ids.
    let path = path.split('/').map(|part| if part.starts_with("UPID") { "UPID" } else { part }).collect::<Vec<_>>().join("/");
    match url.query() {
        Some(query) if request.method() == reqwest::Method::GET => format!("{} {path}?{query}", request.method()),
        _ => format!("{} {path}", request.method()),
    }
}
