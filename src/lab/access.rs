//! `/access`: users, tokens, roles and who was granted which. Who logs in is `ticket`'s.

use super::{
    answer::{Answer, Refusal},
    format,
    node::Node,
    parameters::Parameters,
    permission::{Access, Grant, ROOT, Token, User, Who, refused},
};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

impl Node {
    fn change_access<R>(&self, change: impl FnOnce(&mut Access) -> R) -> R {
        self.store.change(|state| change(&mut state.access))
    }

    pub(super) fn domains() -> Answer {
        let (pam, pve) = ("Linux PAM standard authentication", "Proxmox VE authentication server");
        Ok(json!([{ "realm": "pam", "type": "pam", "comment": pam }, { "realm": "pve", "type": "pve", "comment": pve }]).into())
    }

    pub(super) fn permissions(&self, parameters: &Parameters) -> Answer {
        let who = parameters.get("userid").map_or_else(|| parameters.who.clone(), Who::parse);
        self.access(|access| {
            if who.user != parameters.who.user {
                access.need(&parameters.who, "/access", "Sys.Audit")?;
            }
            let mut paths: BTreeSet<String> = match parameters.get("path") {
                Some(path) => [path.to_owned()].into(),
                None => access.grants.iter().map(|grant| grant.path.clone()).collect(),
            };
            if parameters.get("path").is_none() && who.user == ROOT {
                paths.extend(["/", "/access", "/access/groups", "/nodes", "/pool", "/sdn", "/storage", "/vms"].map(str::to_owned));
            }
            let rows: Map<String, Value> = paths
                .into_iter()
                .filter_map(|path| {
                    let has: Map<String, Value> =
                        access.privileges(&who, &path).into_iter().map(|(privilege, down)| (privilege, u8::from(down).into())).collect();
                    (!has.is_empty() || parameters.get("path").is_some()).then(|| (path, has.into()))
                })
                .collect();
            Ok(Value::from(rows).into())
        })
    }

    pub(super) fn acl(&self, parameters: &Parameters) -> Answer {
        let who = &parameters.who;
        let rows: Vec<Value> = self.access(|access| {
            let all = access.may(who, "/access", "Sys.Audit") || access.may(who, "/access", "Permissions.Modify");
            let shown = access.grants.iter().filter(|grant| all || access.may(who, &grant.path, "Permissions.Modify"));
            shown
                .map(|grant| {
                    let kind = if grant.to.contains('!') { "token" } else { "user" };
                    json!({ "path": grant.path, "ugid": grant.to, "roleid": grant.role, "type": kind, "propagate": u8::from(grant.propagate) })
                })
                .collect()
        });
        Ok(Value::from(rows).into())
    }

    pub(super) fn grant(&self, parameters: &Parameters) -> Answer {
        let path = parameters.get("path").unwrap_or_default();
        if !path.starts_with('/') {
            return Err(Refusal::parameter("path", "invalid ACL path"));
        }
        if parameters.get("groups").is_some() {
            return Err(Refusal::die("update ACL failed: this lab has no groups"));
        }
        let (delete, propagate) = (parameters.flag("delete"), parameters.get("propagate") != Some("0"));
        self.change_access(|access| {
            for role in format::list(parameters.get("roles").unwrap_or_default()) {
                if access.role(role).is_none() {
                    return Err(Refusal::die(format!("update ACL failed: role '{role}' does not exist")));
                }
                // What one may give is what one has, unless one may change permissions there.
                if !access.may(&parameters.who, path, "Permissions.Modify")
                    && let Some(privilege) =
                        access.role(role).unwrap_or_default().iter().find(|privilege| !access.may(&parameters.who, path, privilege))
                {
                    return Err(refused(&format!("{path}, {privilege}")));
                }
                for (list, what) in [("users", "user"), ("tokens", "token")] {
                    for to in format::list(parameters.get(list).unwrap_or_default()) {
                        let known = if list == "users" { access.users.contains_key(to) } else { access.tokens.contains_key(to) };
                        if !known && !delete {
                            return Err(Refusal::die(format!("update ACL failed: {what} '{to}' does not exist")));
                        }
                        access.grants.retain(|grant| !(grant.path == path && grant.to == to && grant.role == role));
                        if !delete {
                            access.grants.push(Grant { path: path.to_owned(), to: to.to_owned(), role: role.to_owned(), propagate });
                        }
                    }
                }
            }
            Ok(Value::Null.into())
        })
    }

    pub(super) fn roles(&self) -> Answer {
        let row = |access: &Access, (name, special): (String, bool)| {
            let privileges: Vec<String> = access.role(&name).unwrap_or_default().into_iter().collect();
            json!({ "roleid": name, "special": u8::from(special), "privs": privileges.join(",") })
        };
        let rows: Vec<Value> = self.access(|access| access.role_names().into_iter().map(|role| row(access, role)).collect());
        Ok(Value::from(rows).into())
    }

    pub(super) fn role(&self, parameters: &Parameters) -> Answer {
        let name = parameters.get("roleid").unwrap_or_default();
        let role = self.access(|access| access.role(name)).ok_or_else(|| Refusal::die(format!("role '{name}' does not exist")))?;
        Ok(Value::from(role.into_iter().map(|privilege| (privilege, 1.into())).collect::<Map<String, Value>>()).into())
    }

    /// POST makes a role, PUT changes one.
    pub(super) fn set_role(&self, parameters: &Parameters, new: bool) -> Answer {
        let name = parameters.get("roleid").unwrap_or_default();
        let given: BTreeSet<String> = format::list(parameters.get("privs").unwrap_or_default()).map(str::to_owned).collect();
        self.change_access(|access| {
            let verb = if new { "create" } else { "modify" };
            match (access.role(name), new) {
                (Some(_), true) => return Err(Refusal::die(format!("{verb} role failed: role '{name}' already exists"))),
                (None, false) => return Err(Refusal::die(format!("{verb} role failed: role '{name}' does not exist"))),
                (Some(_), false) if !access.roles.contains_key(name) => {
                    return Err(Refusal::die(format!("{verb} role failed: auto-generated role '{name}' cannot be modified")));
                }
                _ => {}
            }
            let role = access.roles.entry(name.to_owned()).or_default();
            if !parameters.flag("append") {
                role.clear();
            }
            role.extend(given);
            Ok(Value::Null.into())
        })
    }

    pub(super) fn delete_role(&self, parameters: &Parameters) -> Answer {
        let name = parameters.get("roleid").unwrap_or_default();
        self.change_access(|access| {
            if access.roles.remove(name).is_none() {
                let why = if access.role(name).is_some() { "auto-generated role" } else { "role" };
                let what = if why == "role" { "does not exist" } else { "can not be deleted" };
                return Err(Refusal::die(format!("delete role failed: {why} '{name}' {what}")));
            }
            access.grants.retain(|grant| grant.role != name);
            Ok(Value::Null.into())
        })
    }

    pub(super) fn users(&self, parameters: &Parameters) -> Answer {
        let who = &parameters.who;
        let rows: Vec<Value> = self.access(|access| {
            let all = access.may(who, "/access/groups", "User.Modify") || access.may(who, "/access/groups", "Sys.Audit");
            let shown = access.users.iter().filter(|(name, _)| all || **name == who.user);
            shown.map(|(name, user)| user.row(Some(name))).collect()
        });
        Ok(Value::from(rows).into())
    }

    pub(super) fn user(&self, parameters: &Parameters) -> Answer {
        let name = parameters.get("userid").unwrap_or_default();
        self.access(|access| {
            let user = access.users.get(name).ok_or_else(|| Refusal::die(format!("no such user ('{name}')")))?;
            let tokens = access.tokens_of(name).map(|(id, token)| (id.to_owned(), token.row(None))).collect::<Map<String, Value>>();
            let mut row = user.row(None);
            row["tokens"] = tokens.into();
            Ok(row.into())
        })
    }

    pub(super) fn add_user(&self, parameters: &Parameters) -> Answer {
        let name = parameters.get("userid").unwrap_or_default();
        let realm = name.rsplit_once('@').map(|(_, realm)| realm).unwrap_or_default();
        if !matches!(realm, "pve" | "pam") {
            return Err(Refusal::die(format!("create user failed: domain '{realm}' does not exist")));
        }
        self.change_access(|access| {
            if access.users.contains_key(name) {
                return Err(Refusal::die(format!("create user failed: user '{name}' already exists")));
            }
            let user = User {
                password: parameters.get("password").map(str::to_owned),
                comment: parameters.get("comment").map(str::to_owned),
                disabled: parameters.get("enable") == Some("0"),
                expire: parameters.number("expire").unwrap_or_default(),
            };
            access.users.insert(name.to_owned(), user);
            Ok(Value::Null.into())
        })
    }

    pub(super) fn delete_user(&self, parameters: &Parameters) -> Answer {
        let name = parameters.get("userid").unwrap_or_default();
        self.change_access(|access| {
            if name == ROOT {
                return Err(Refusal::die("delete user failed: you may not delete yourself"));
            }
            if access.users.remove(name).is_none() {
                return Err(Refusal::die(format!("delete user failed: user '{name}' does not exist")));
            }
            let prefix = format!("{name}!");
            access.tokens.retain(|id, _| !id.starts_with(&prefix));
            access.grants.retain(|grant| grant.to != name && !grant.to.starts_with(&prefix));
            Ok(Value::Null.into())
        })
    }

    pub(super) fn tokens(&self, parameters: &Parameters) -> Answer {
        let user = parameters.get("userid").unwrap_or_default();
        let rows: Vec<Value> = self.access(|access| access.tokens_of(user).map(|(id, token)| token.row(Some(id))).collect());
        Ok(Value::from(rows).into())
    }

    pub(super) fn token(&self, parameters: &Parameters) -> Answer {
        let (user, id) = (parameters.get("userid").unwrap_or_default(), parameters.get("tokenid").unwrap_or_default());
        let row = self.access(|access| access.tokens.get(&format!("{user}!{id}")).map(|token| token.row(None)));
        row.map(Into::into).ok_or_else(|| Refusal::die(format!("no such token '{id}' for user '{user}'")))
    }

    pub(super) fn add_token(&self, parameters: &Parameters) -> Answer {
        let (user, id) = (parameters.get("userid").unwrap_or_default(), parameters.get("tokenid").unwrap_or_default());
        let token = Token {
            secret: crate::random::uuid().to_string(),
            privsep: parameters.get("privsep") != Some("0"),
            comment: parameters.get("comment").map(str::to_owned),
            expire: parameters.number("expire").unwrap_or_default(),
        };
        let full = format!("{user}!{id}");
        self.change_access(|access| {
            if !access.users.contains_key(user) {
                return Err(Refusal::die(format!("no such user ('{user}')")));
            }
            if access.tokens.contains_key(&full) {
                return Err(Refusal::parameter("tokenid", "Token already exists."));
            }
            let row = json!({ "full-tokenid": full, "value": token.secret, "info": token.row(None) });
            access.tokens.insert(full.clone(), token);
            Ok(row.into())
        })
    }

    pub(super) fn delete_token(&self, parameters: &Parameters) -> Answer {
        let (user, id) = (parameters.get("userid").unwrap_or_default(), parameters.get("tokenid").unwrap_or_default());
        let full = format!("{user}!{id}");
        self.change_access(|access| {
            if access.tokens.remove(&full).is_none() {
                return Err(Refusal::die(format!("no such token '{id}' for user '{user}'")));
            }
            access.grants.retain(|grant| grant.to != full);
            Ok(Value::Null.into())
        })
    }
}

impl Access {
    fn tokens_of(&self, user: &str) -> impl Iterator<Item = (&str, &Token)> {
        let prefix = format!("{user}!");
        self.tokens.iter().filter_map(move |(full, token)| Some((full.strip_prefix(&prefix)?, token)))
    }
}

impl User {
    fn row(&self, name: Option<&str>) -> Value {
        let mut row = json!({ "enable": u8::from(!self.disabled), "expire": self.expire });
        if let Some(name) = name {
            row["userid"] = name.into();
            row["realm-type"] = name.rsplit_once('@').map(|(_, realm)| realm).into();
        }
        if let Some(comment) = &self.comment {
            row["comment"] = comment.as_str().into();
        }
        row
    }
}

impl Token {
    fn row(&self, id: Option<&str>) -> Value {
        let mut row = json!({ "privsep": u8::from(self.privsep), "expire": self.expire });
        row.as_object_mut().into_iter().for_each(|row| {
            row.extend(id.map(|id| ("tokenid".to_owned(), id.into())));
            row.extend(self.comment.as_ref().map(|comment| ("comment".to_owned(), comment.as_str().into())));
        });
        row
    }
}

/// The user and the token that a lab always has: the hub's, with the role that the handbook names and no more.
pub(super) fn fill(access: &mut Access, token: &str, secret: &str) {
    const ROLE: &str = "VM.Allocate VM.Audit VM.Clone VM.PowerMgmt VM.Config.CPU VM.Config.Disk VM.Config.HWType VM.Config.Memory \
VM.Config.Network VM.Config.Options VM.GuestAgent.Audit VM.GuestAgent.FileWrite VM.GuestAgent.Unrestricted Datastore.AllocateSpace \
Datastore.Audit SDN.Use Sys.Audit";
    let user = Who::parse(token).user;
    access.users.entry(ROOT.to_owned()).or_default();
    if access.users.contains_key(&user) {
        return;
    }
    access.users.insert(user.clone(), User::default());
    access.tokens.insert(token.to_owned(), Token { secret: secret.to_owned(), privsep: false, comment: None, expire: 0 });
    access.roles.insert("Autovibe".to_owned(), ROLE.split(' ').map(str::to_owned).collect());
    access.grants.push(Grant { path: "/".to_owned(), to: user, role: "Autovibe".to_owned(), propagate: true });
}
