//! Workers and their UPIDs: everything found before the start is refused at once, everything later is in the task's end.

use super::{
    answer::{Answer, Refusal, Reply},
    format,
    node::Node,
    parameters::Parameters,
    permission::Who,
    state::Store,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{future::Future, sync::Arc};
use tokio_util::sync::CancellationToken;

/// Proxmox' index covers some minutes of a busy node; a journal it is not. So many tasks that ended are kept of each node.
pub(super) const KEPT: usize = 400;

tokio::task_local! {
    /// Workers that start now hang.
    static HANGS: ();
}

/// Answers a call whose worker is to hang.
pub(super) async fn hanging<R>(call: impl Future<Output = R>) -> R {
    HANGS.scope((), call).await
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    upid: String,
    pid: u32,
    pstart: u64,
    kind: String,
    id: String,
    /// `alice@pve!t1`
    #[serde(default)]
    who: String,
    start: i64,
    end: Option<i64>,
    /// `OK`, `WARNINGS: n`, or the error's text; absent while it runs.
    exit: Option<String>,
    log: Vec<String>,
    warnings: u32,
}

/// How a worker is ended from outside.
pub(super) struct Worker {
    pub(super) node: String,
    /// By the API: it says so in its log.
    stop: CancellationToken,
    /// With its node: nobody writes its end.
    pub(super) kill: CancellationToken,
}

/// The log of one running task.
#[derive(Clone)]
pub(super) struct Log {
    store: Arc<Store>,
    upid: String,
    hangs: bool,
}

impl Log {
    fn change(&self, change: impl FnOnce(&mut Record)) {
        self.store.change(|state| state.tasks.iter_mut().rev().find(|task| task.upid == self.upid).map(change));
    }

    /// Where the worker's own programs would run now: one that is to hang does it here.
    pub(super) async fn at_work(&self) {
        if self.hangs {
            std::future::pending::<()>().await;
        }
    }

    pub(super) fn line(&self, text: impl Into<String>) {
        let text = text.into();
        self.change(|task| task.log.push(text));
    }

    pub(super) fn warn(&self, text: &str) {
        self.change(|task| {
            task.log.push(format!("WARN: {text}"));
            task.warnings += 1;
        });
    }

    fn end(&self, result: Result<(), String>, now: i64) {
        self.change(|task| {
            let (last, exit) = match result {
                Ok(()) if task.warnings > 0 => (format!("TASK WARNINGS: {}", task.warnings), format!("WARNINGS: {}", task.warnings)),
                Ok(()) => ("TASK OK".to_owned(), "OK".to_owned()),
                Err(text) => (format!("TASK ERROR: {text}"), text.lines().next().unwrap_or_default().to_owned()),
            };
            task.log.push(last);
            task.exit = Some(exit);
            task.end = Some(now);
        });
    }
}

/// Tasks of a former run of a node ended with it, in whatever state.
pub(super) fn bury(tasks: &mut [Record], node: &str) {
    for task in tasks.iter_mut().filter(|task| task.exit.is_none() && task.node() == node) {
        task.exit = Some("unexpected status".to_owned());
        task.end = Some(task.start);
    }
}

/// How a task ended; `None` while it runs.
pub(super) fn end_of(tasks: &[Record], upid: &str) -> Option<String> {
    tasks.iter().rev().find(|task| task.upid == upid)?.exit.clone()
}

/// Forgets a node's oldest tasks that ended, but for so many.
pub(super) fn prune(tasks: &mut Vec<Record>, node: &str, kept: usize) {
    let ended = |task: &Record| task.exit.is_some() && task.node() == node;
    let mut surplus = tasks.iter().filter(|task| ended(task)).count().saturating_sub(kept);
    tasks.retain(|task| {
        let forget = surplus > 0 && ended(task);
        surplus -= usize::from(forget);
        !forget
    });
}

impl Node {
    /// Starts a worker and answers its UPID.
    pub(super) fn spawn<F>(self: &Arc<Self>, who: &Who, kind: &str, id: impl ToString, work: impl FnOnce(Log) -> F) -> Answer
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.spawn_with_undo(who, kind, id, work, |_, why| async { why })
    }

    /// Likewise, with what the worker does when its work failed or it was told to stop; that gives the text of its end.
    pub(super) fn spawn_with_undo<F, U>(
        self: &Arc<Self>,
        who: &Who,
        kind: &str,
        id: impl ToString,
        work: impl FnOnce(Log) -> F,
        undo: impl FnOnce(Log, String) -> U + Send + 'static,
    ) -> Answer
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
        U: Future<Output = String> + Send,
    {
        let (id, start, who) = (id.to_string(), self.now(), who.id());
        let pstart = u64::try_from(self.started.elapsed().as_millis() / 10).unwrap_or_default();
        let upid = self.store.change(|state| {
            state.last_pid = state.last_pid.max(1000) + 1;
            let pid = state.last_pid;
            let upid = format!("UPID:{}:{pid:08X}:{pstart:08X}:{start:08X}:{kind}:{id}:{who}:", self.name);
            state.tasks.push(Record {
                upid: upid.clone(),
                pid,
                pstart,
                kind: kind.to_owned(),
                id,
                who,
                start,
                end: None,
                exit: None,
                log: Vec::new(),
                warnings: 0,
            });
            prune(&mut state.tasks, &self.name, state.tasks_kept.unwrap_or(KEPT));
            upid
        });
        let log = Log { store: self.store.clone(), upid: upid.clone(), hangs: HANGS.try_with(|()| ()).is_ok() };
        let (stop, kill) = (CancellationToken::new(), CancellationToken::new());
        self.workers().insert(upid.clone(), Worker { node: self.name.clone(), stop: stop.clone(), kill: kill.clone() });
        let (node, work, ended) = (self.clone(), work(log.clone()), self.shutdown.clone());
        tokio::spawn(async move {
            let whole = async {
                let result = tokio::select! {
                    biased;
                    result = work => result,
                    () = stop.cancelled() => Err("received interrupt".to_owned()),
                };
                let result = match result {
                    Ok(()) => Ok(()),
                    Err(why) => Err(undo(log.clone(), why).await),
                };
                log.end(result, node.now());
            };
            tokio::select! {
                biased;
                () = whole => {}
                () = kill.cancelled() => {}
                // The lab ends: the record stays without an end, as a killed worker's.
                () = ended.cancelled() => {}
            }
            node.workers().remove(&log.upid);
        });
        Ok(Value::from(upid).into())
    }

    /// Stops running workers of a kind, as `overrule-shutdown` does.
    pub(super) fn interrupt(&self, kind: &str, id: u32) {
        let wanted = format!(":{kind}:{id}:");
        self.workers().iter().filter(|(upid, _)| upid.contains(&wanted)).for_each(|(_, worker)| worker.stop.cancel());
    }

    /// A caller's own task, or any with `Sys.Audit` on the node; a user's own are its tokens' too.
    fn task(&self, parameters: &Parameters) -> Result<Option<Record>, Refusal> {
        let (upid, who) = (parameters.get("upid").unwrap_or_default(), &parameters.who);
        let parts: Vec<&str> = upid.split(':').collect();
        if parts.len() != 9 || parts[0] != "UPID" || parts[2..5].iter().any(|part| u64::from_str_radix(part, 16).is_err()) {
            return Err(Refusal::parameter("upid", "unable to parse worker upid"));
        }
        if !who.owns(parts[7]) {
            self.access(|access| access.need(who, &format!("/nodes/{}", self.name), "Sys.Audit"))?;
        }
        Ok(self.store.read(|state| state.tasks.iter().rev().find(|task| task.upid == upid && task.node() == self.name).cloned()))
    }

    pub(super) fn task_status(&self, parameters: &Parameters) -> Answer {
        let task = self.task(parameters)?.ok_or_else(|| Refusal::parameter("upid", "no such task"))?;
        let mut row = task.row();
        row["status"] = if task.exit.is_some() { "stopped" } else { "running" }.into();
        if let Some(exit) = task.exit {
            row["exitstatus"] = exit.into();
        }
        Ok(row.into())
    }

    pub(super) fn task_log(&self, parameters: &Parameters) -> Answer {
        let lines = match self.task(parameters)? {
            None => vec!["unable to open file - No such file or directory".to_owned()],
            Some(task) if task.log.is_empty() => vec!["no content".to_owned()],
            Some(task) => task.log,
        };
        let start = parameters.number("start").unwrap_or(0_usize);
        let limit = parameters.number("limit").filter(|limit| *limit > 0).unwrap_or(if parameters.get("limit").is_some() {
            usize::MAX
        } else {
            50
        });
        let rows = lines.iter().enumerate().skip(start).take(limit).map(|(at, line)| json!({ "n": at + 1, "t": line }));
        Ok(Reply { data: rows.collect(), total: Some(lines.len()) })
    }

    /// Stops a worker; its own, or with `Sys.Modify` on the node.
    pub(super) fn task_stop(&self, parameters: &Parameters) -> Answer {
        let upid = parameters.get("upid").unwrap_or_default();
        if !parameters.who.owns(upid.split(':').nth(7).unwrap_or_default()) {
            self.access(|access| access.need(&parameters.who, &format!("/nodes/{}", self.name), "Sys.Modify"))?;
        }
        if !self.store.read(|state| state.tasks.iter().any(|task| task.upid == upid && task.node() == self.name)) {
            return Err(Refusal::parameter("upid", "no such task"));
        }
        if let Some(worker) = self.workers().get(upid) {
            worker.stop.cancel();
        }
        Ok(Value::Null.into())
    }

    pub(super) fn task_list(&self, parameters: &Parameters) -> Answer {
        let source = parameters.get("source").unwrap_or("archive");
        let all = self.access(|access| access.may(&parameters.who, &format!("/nodes/{}", self.name), "Sys.Audit"));
        let kinds: Vec<&str> = format::list(parameters.get("statusfilter").unwrap_or_default()).collect();
        let wanted = |task: &&Record| {
            let good = task.exit.as_deref().is_some_and(|exit| exit == "OK" || exit.starts_with("WARNINGS"));
            let kind = match task.exit.as_deref() {
                Some("OK") => "ok",
                Some("unexpected status") | None => "unknown",
                Some(exit) if exit.starts_with("WARNINGS") => "warning",
                Some(_) => "error",
            };
            task.node() == self.name
                && (all || parameters.who.owns(&task.who))
                && (kinds.is_empty() || kinds.contains(&kind))
                && (source == "all" || (source == "active") == task.exit.is_none())
                && parameters.get("vmid").is_none_or(|id| id == task.id)
                && parameters.get("typefilter").is_none_or(|kind| kind == task.kind)
                && parameters.get("userfilter").is_none_or(|user| task.who.contains(user))
                && parameters.number("since").is_none_or(|since: i64| task.start >= since)
                && parameters.number("until").is_none_or(|until: i64| task.start <= until)
                && !(parameters.flag("errors") && good)
        };
        let rows: Vec<Value> = self.store.read(|state| state.tasks.iter().rev().filter(wanted).map(Record::list_row).collect());
        let (start, limit) = (parameters.number("start").unwrap_or(0), parameters.number("limit").unwrap_or(50));
        Ok(Reply { total: Some(rows.len()), data: rows.into_iter().skip(start).take(limit).collect() })
    }
}

impl Record {
    fn node(&self) -> &str {
        self.upid.split(':').nth(1).unwrap_or_default()
    }

    pub(super) fn exit(&self) -> Option<&str> {
        self.exit.as_deref()
    }

    fn row(&self) -> Value {
        let who = Who::parse(&self.who);
        let mut row = json!({ "upid": self.upid, "node": self.node(), "pid": self.pid, "pstart": self.pstart, "starttime": self.start, "type": self.kind,
            "id": self.id, "user": who.user });
        if let Some(token) = who.token {
            row["tokenid"] = token.into();
        }
        row
    }

    fn list_row(&self) -> Value {
        let mut row = self.row();
        match (&self.exit, self.end) {
            (Some(exit), end) => {
                row["status"] = exit.as_str().into();
                row["endtime"] = end.into();
            }
            // A running one is shown as its active file has it.
            (None, _) => {
                row["status"] = "RUNNING".into();
                row["saved"] = "0".into();
                row["user"] = self.who.as_str().into();
            }
        }
        row
    }
}
