//! `agent/*`: the guest agent's protocol behind Proxmox' calls.

use super::{
    answer::{Answer, Refusal},
    guests::{Guests, NoReply},
    node::{Node, agent_enabled, lock},
    parameters::Parameters,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::time::Duration;

/// Proxmox asks the agent for a sign of life first, and waits this long for it.
const PING: Duration = Duration::from_secs(3);

/// A parameter's characters as the bytes that Proxmox writes: one each.
fn to_bytes(text: &str) -> Result<Vec<u8>, Refusal> {
    let bytes: Result<Vec<u8>, _> = text.chars().map(|c| u8::try_from(u32::from(c))).collect();
    bytes.map_err(|_| Refusal::die("Wide character in subroutine entry at /usr/share/perl5/PVE/API2/Qemu/Agent.pm"))
}

/// What a guest printed, as Proxmox shows it: one character for each byte.
fn shown(base64: &Value) -> Option<String> {
    let bytes = STANDARD.decode(base64.as_str()?).ok()?;
    Some(bytes.into_iter().map(char::from).collect())
}

impl Node {
    /// One command; refusals in Proxmox' order.
    async fn ask(&self, vmid: u32, command: Value) -> Result<Value, Refusal> {
        let config = self.must_exist(vmid)?;
        if !agent_enabled(&config) {
            return Err(Refusal::die("No QEMU guest agent configured"));
        }
        if !self.guests.power(vmid).await {
            return Err(Refusal::die(format!("VM {vmid} is not running")));
        }
        match self.guests.agent(vmid, &command).await {
            Ok(reply) => Ok(reply),
            Err(NoReply::Lost(_)) => Err(Refusal::Lost),
            Err(NoReply::Silent(_)) => {
                // A real agent's silence has taken its time already.
                if matches!(self.guests, Guests::Simulated(_)) {
                    let patience = PING.min(*lock(&self.refusal));
                    self.clock.sleep(patience).await;
                }
                Err(Refusal::die("QEMU guest agent is not running"))
            }
        }
    }

    /// As `ask`; the agent's own refusal becomes Proxmox'.
    async fn tell(&self, vmid: u32, command: Value) -> Result<Value, Refusal> {
        let reply = self.ask(vmid, command).await?;
        match reply["error"]["desc"].as_str() {
            Some(desc) => Err(Refusal::die(format!("Agent error: {desc}"))),
            None => Ok(reply["return"].clone()),
        }
    }

    /// `ping`, `fsfreeze-status`, `fsfreeze-freeze`, `fsfreeze-thaw`: the agent's answer inside `result`, also its refusal.
    pub(super) async fn agent_simple(&self, vmid: u32, name: &str) -> Answer {
        let reply = self.ask(vmid, json!({ "execute": format!("guest-{name}") })).await?;
        let result = if reply.get("error").is_some() { json!({ "error": reply["error"] }) } else { reply["return"].clone() };
        Ok(json!({ "result": result }).into())
    }

    pub(super) async fn agent_exec(&self, vmid: u32, parameters: &Parameters) -> Answer {
        let mut command = parameters.all("command");
        let path = command.remove(0);
        let mut arguments = json!({ "path": path, "arg": command, "capture-output": true });
        if let Some(input) = parameters.get("input-data") {
            arguments["input-data"] = STANDARD.encode(to_bytes(input)?).into();
        }
        let reply = self.tell(vmid, json!({ "execute": "guest-exec", "arguments": arguments })).await?;
        Ok(json!({ "pid": reply["pid"] }).into())
    }

    pub(super) async fn agent_exec_status(&self, vmid: u32, parameters: &Parameters) -> Answer {
        let pid: i64 = parameters.number("pid").unwrap_or_default();
        let reply = self.tell(vmid, json!({ "execute": "guest-exec-status", "arguments": { "pid": pid } })).await?;
        let mut data = json!({ "exited": u8::from(reply["exited"] == true) });
        for key in ["exitcode", "signal"] {
            if !reply[key].is_null() {
                data[key] = reply[key].clone();
            }
        }
        for (key, truncated) in [("out-data", "out-truncated"), ("err-data", "err-truncated")] {
            if let Some(text) = shown(&reply[key]) {
                data[key] = text.into();
                data[truncated] = u8::from(reply[truncated] == true).into();
            }
        }
        Ok(data.into())
    }

    pub(super) async fn agent_write(&self, vmid: u32, parameters: &Parameters) -> Answer {
        let (content, path) = (parameters.get("content").unwrap_or_default(), parameters.get("file").unwrap_or_default());
        let base64 = if parameters.get("encode") == Some("0") { content.to_owned() } else { STANDARD.encode(to_bytes(content)?) };
        let handle = self.tell(vmid, json!({ "execute": "guest-file-open", "arguments": { "path": path, "mode": "wb" } })).await?;
        let written = self.tell(vmid, json!({ "execute": "guest-file-write", "arguments": { "handle": handle, "buf-b64": base64 } })).await;
        self.tell(vmid, json!({ "execute": "guest-file-close", "arguments": { "handle": handle } })).await?;
        written?;
        Ok(Value::Null.into())
    }
}
