//! A model guest: its record, and the guest agent's protocol.

use super::{Guests, verb};
use crate::agent::scripts::SOURCE_BUNDLE;
use crate::lab::node::NODE;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Folders that every guest has.
const FOLDERS: &[&str] = &["", "/etc", "/root", "/tmp", "/var/lib/autovibe", "/home/agent"];

/// One launch of an agent, as the guest was told it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Launch {
    pub(crate) number: u32,
    pub(crate) environment: BTreeMap<String, String>,
}

fn of_the_first_node() -> String {
    NODE.to_owned()
}

/// A guest whose power is on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Guest {
    /// Of its first disk: the pool, by its name in the lab's state, and the dataset.
    #[serde(default = "of_the_first_node")]
    pub(crate) pool: String,
    pub(crate) disk: String,
    /// Whether its system comes up.
    pub(crate) boots: bool,
    /// The agent that runs, or that ended and has not been able to say so yet.
    pub(crate) agent: Option<Launch>,
    #[serde(default)]
    pub(crate) frozen: bool,
}

impl Guests {
    /// The agent's answer; errors are the text of its own refusal.
    pub(super) fn reply(&self, vmid: u32, command: &Value) -> Result<Value, String> {
        let name = command["execute"].as_str().unwrap_or_default();
        let arguments = &command["arguments"];
        let frozen = self.store.read(|state| state.guests.get(&vmid).is_some_and(|guest| guest.frozen));
        if frozen && !matches!(name, "guest-ping" | "guest-sync" | "guest-info" | "guest-fsfreeze-status" | "guest-fsfreeze-thaw") {
            return Err(format!("Command {name} has been disabled: the agent is in frozen state"));
        }
        match name {
            "guest-ping" | "guest-file-flush" => Ok(json!({})),
            "guest-fsfreeze-status" => Ok(if frozen { "frozen" } else { "thawed" }.into()),
            "guest-fsfreeze-freeze" | "guest-fsfreeze-thaw" => {
                let freeze = name == "guest-fsfreeze-freeze";
                self.store.change(|state| state.guests.get_mut(&vmid).map(|guest| guest.frozen = freeze));
                Ok(u8::from(freeze != frozen).into())
            }
            "guest-exec" => self.exec(vmid, arguments),
            "guest-exec-status" => {
                let pid = arguments["pid"].as_u64().unwrap_or_default();
                let told = self.memory().get_mut(&vmid).and_then(|memory| memory.commands.report(pid));
                told.ok_or_else(|| "Invalid parameter 'pid'".to_owned())
            }
            "guest-file-open" => {
                let path = arguments["path"].as_str().unwrap_or_default();
                if !path.rsplit_once('/').is_some_and(|(folder, name)| FOLDERS.contains(&folder) && !name.is_empty()) {
                    return Err(format!("failed to open file '{path}' (mode: 'wb'): No such file or directory"));
                }
                let mut memory = self.memory();
                let files = memory.get_mut(&vmid).map(|memory| &mut memory.files).ok_or("no guest")?;
                let handle = files.keys().last().copied().unwrap_or(999) + 1;
                files.insert(handle, (path.to_owned(), Vec::new()));
                Ok(handle.into())
            }
            "guest-file-write" => {
                let bytes = STANDARD.decode(arguments["buf-b64"].as_str().unwrap_or_default()).map_err(|error| error.to_string())?;
                let mut memory = self.memory();
                let handle = arguments["handle"].as_i64().unwrap_or_default();
                let file = memory
                    .get_mut(&vmid)
                    .and_then(|memory| memory.files.get_mut(&handle))
                    .ok_or_else(|| format!("handle '{handle}' has not been found"))?;
                file.1.extend_from_slice(&bytes);
                Ok(json!({ "count": bytes.len(), "eof": false }))
            }
            "guest-file-close" => {
                let handle = arguments["handle"].as_i64().unwrap_or_default();
                let closed = self.memory().get_mut(&vmid).and_then(|memory| memory.files.remove(&handle));
                let (path, bytes) = closed.ok_or_else(|| format!("handle '{handle}' has not been found"))?;
                self.on_disk(vmid, |disk| {
                    if path == SOURCE_BUNDLE {
                        disk.bundle = Some(STANDARD.encode(&bytes));
                    }
                    disk.files.insert(path, bytes.len())
                });
                Ok(json!({}))
            }
            _ => Err(format!("The command {name} has not been found")),
        }
    }

    /// Changes what is on a guest's disk.
    pub(super) fn on_disk<R>(&self, vmid: u32, change: impl FnOnce(&mut super::disk::Disk) -> R) -> Option<R> {
        self.store.change(|state| state.disk_of(vmid).map(change))
    }

    fn exec(&self, vmid: u32, arguments: &Value) -> Result<Value, String> {
        let words: Vec<&str> = arguments["arg"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let input = arguments["input-data"].as_str().map(|text| STANDARD.decode(text)).transpose().map_err(|error| error.to_string())?;
        let input = String::from_utf8_lossy(&input.unwrap_or_default()).into_owned();
        // `/bin/sh -c SCRIPT VERB args…`; the verb alone says what is meant.
        let ended = match (arguments["path"].as_str(), &words[..]) {
            (Some("/bin/sh"), ["-c", _script, verb, args @ ..]) => self.verb(vmid, verb, args, &input),
            _ => verb::Ended::default(),
        };
        let mut memory = self.memory();
        let commands = memory.get_mut(&vmid).map(|memory| &mut memory.commands).ok_or("no guest")?;
        Ok(json!({ "pid": commands.add(ended) }))
    }
}
