//! A command that a person runs in a guest: POST to a Machine's `exec`.
//!
//! Only a server whose own process leads the controllers reaches guests; another one says so.

use super::{Shared, reply, route::Target, status::Status};
use crate::api::exec::{Exec, ExecOutput, ExecUser, Executed, LONGEST, MOST_COMMAND, MOST_INPUT};
use crate::api::{DEFAULT_HUB, FieldError, GROUP, Kind, Machine};
use crate::driver::Driver;
use crate::driver::guest::Said;
use crate::driver::marks::Owner;
use crate::objects::EventType;
use crate::proxmox::{Node, Vmid};
use axum::{body::Body, response::Response};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use std::convert::Infallible;
use tokio::sync::mpsc;

/// Parts of the output on their way to the client.
const PARTS: usize = 4;

/// Begins the command; the answer's body is lines, [`Executed`], as they come, or one when it has ended. A client that goes away ends it.
///
/// Errors: 404, 409 when the Machine has no guest that answers, 422, 503 when this server reaches no guests.
pub(super) async fn answer(server: &Shared, target: &Target, user: &str, body: &[u8]) -> Result<Response, Status> {
    let (namespace, name) = (target.namespace.as_deref().unwrap_or_default(), target.name.as_deref().unwrap_or_default());
    let exec: Exec = serde_json::from_slice(body).map_err(|error| {
        Status::bad_request(format!("the body must be JSON such as {{\"command\": [\"git\", \"status\"], \"timeout\": \"1m\"}}: {error}"))
    })?;
    let errors = wrong(&exec);
    if !errors.is_empty() {
        return Err(super::status::invalid(GROUP, "Exec", name, &errors));
    }
    let machine: Machine = server.objects.get(namespace, name).await?.ok_or_else(|| Status::not_found("machines", name))?;
    let (driver, vmid) = guest(server, &machine).await?;
    // Its arguments may be secrets; what ran is for the agent's transcript and the guest to say.
    let program = exec.command[0].chars().take(80).collect::<String>();
    let whose = if exec.user == ExecUser::Root { "as root" } else { "as the agent's user" };
    server.objects.record(&machine, EventType::Normal, "Exec", &format!("{user} ran {program:?} in the guest {whose}")).await;
    let (clock, workspace) = (server.objects.clock().clone(), machine.workspace().to_owned());
    let (to, mut from) = mpsc::channel(PARTS);
    let output = exec.output;
    // In a task of its own: it ends the command when nobody waits for it any more.
    tokio::spawn(async move {
        if let Err(error) = driver.guest(vmid, &clock).exec(&exec, &workspace, &to).await {
            to.send(Said::Lost(error.to_string())).await.ok();
        }
    });
    let parts = stream::poll_fn(move |context| from.poll_recv(context));
    Ok(reply::stream(match output {
        ExecOutput::Live => Body::from_stream(parts.map(|part| line(&whole(&[part])))),
        ExecOutput::AtEnd => Body::from_stream(stream::once(at_end(parts))),
    }))
}

async fn at_end(parts: impl Stream<Item = Said>) -> Result<Bytes, Infallible> {
    line(&whole(&parts.collect::<Vec<_>>().await))
}

fn line(executed: &Executed) -> Result<Bytes, Infallible> {
    let mut line = serde_json::to_vec(executed).unwrap_or_default();
    line.push(b'\n');
    Ok(line.into())
}

/// What these parts are together.
fn whole(parts: &[Said]) -> Executed {
    let (mut executed, mut out, mut err) = (Executed::default(), Vec::new(), Vec::new());
    for part in parts {
        match part {
            Said::Out(bytes) => out.extend_from_slice(bytes),
            Said::Err(bytes) => err.extend_from_slice(bytes),
            Said::Ended(code) => executed.exit_code = *code,
            Said::Lost(why) => executed.error = Some(why.clone()),
        }
    }
    Executed { stdout: STANDARD.encode(out), stderr: STANDARD.encode(err), ..executed }
}

fn wrong(exec: &Exec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if exec.command.first().is_none_or(String::is_empty) {
        errors.push(FieldError::required("command", "name a program, for example [\"git\", \"status\"]"));
    }
    if let Some(index) = exec.command.iter().position(|word| word.contains('\0')) {
        errors.push(FieldError::invalid(format!("command[{index}]"), "…", "no argument of a program can hold a NUL"));
    }
    let length: usize = exec.command.iter().map(|word| word.len() + 1).sum();
    if length > MOST_COMMAND {
        errors.push(FieldError::invalid("command", format!("{length} bytes"), format!("must have at most {MOST_COMMAND} bytes")));
    }
    if exec.stdin.len() > MOST_INPUT {
        let (length, most) = (exec.stdin.len(), MOST_INPUT);
        errors.push(FieldError::invalid("stdin", format!("{length} bytes"), format!("must have at most {most} bytes")));
    }
    if exec.timeout.0.as_secs() == 0 || exec.timeout.0 > LONGEST {
        errors.push(FieldError::invalid("timeout", exec.timeout, "must be between 1s and 1h"));
    }
    errors
}

/// Its guest, which answers: the VM was seen to be the Machine's.
async fn guest(server: &Shared, machine: &Machine) -> Result<(Driver, Vmid), Status> {
    let name = machine.name();
    let conflict = |why: &str| Status::conflict("machines.autovibe.dev", name, why);
    let status = machine.status.clone().unwrap_or_default();
    let Some(vm) = status.vm else {
        return Err(conflict(&format!("it has no VM (phase {:?}); a command needs one that runs", status.phase)));
    };
    let hub = machine.spec.hub.as_deref().unwrap_or(DEFAULT_HUB);
    let open = server.door.drivers().await.unwrap_or_default();
    let Some((_, driver)) = open.into_iter().find(|(name, _)| name == hub) else {
        return Err(Status::new(
            503,
            "ServiceUnavailable",
            format!(
                "this server does not reach the guests of Hub {hub}: its process does not run the controllers, or they are not connected; \
                     ask the server of the hub that leads (`autovibe get leases -n autovibe-system`), or see `autovibe explain hub/{hub}`"
            ),
        ));
    };
    let failed = |error: crate::driver::Error| Status::new(503, "ServiceUnavailable", format!("the guest of machine {name}: {error}"));
    let (driver, vmid) = (driver.at(&Node(vm.node)).await.map_err(failed)?, Vmid(vm.vmid));
    match driver.verify_owned(vmid, machine.uid()).await.map_err(failed)? {
        Owner::Ours(_) => {}
        _ => return Err(conflict(&format!("VM {vmid} is not marked as this machine's; nothing is run in it"))),
    }
    if !driver.guest(vmid, server.objects.clock()).answers().await.map_err(failed)? {
        return Err(conflict(&format!("its guest does not answer (phase {:?}); it may be off, booting or hung", status.phase)));
    }
    Ok((driver, vmid))
}
