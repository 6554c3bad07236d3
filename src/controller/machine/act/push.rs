//! The hub's own way to git repositories: with a Secret that no guest ever has.

use super::{Act, Done, Fact, Problem};
use crate::api::Kind;
use crate::api::checkpoint::Checkpoint;
use crate::api::machine::Pushed;
use crate::git::{self, Credential};
use crate::objects;
use secrecy::ExposeSecret;

impl Act<'_> {
    /// What a Secret of the Machine's namespace lets the hub in with. Errors: `Credential` says which key it lacks, or that controllers in a
    /// process of their own may not read it.
    pub(super) async fn credential(&self, secret: Option<&str>) -> Result<Option<Credential>, Problem> {
        let Some(name) = secret else { return Ok(None) };
        let namespace = self.machine.namespace();
        let value = async |key: &str| match self.context.objects.secret(namespace, name, key).await {
            Err(objects::Error::Forbidden(message)) => Err(Problem::Credential(format!(
                "Secret {namespace}/{name} cannot be read by the controllers: {message}. Let them: `kubectl -n {namespace} create rolebinding controller \
                 --clusterrole=autovibe:controller-project --serviceaccount=autovibe-system:controller`"
            ))),
            other => other.map_err(Problem::from),
        };
        if let Some(key) = value("ssh-privatekey").await? {
            let Some(hosts) = value("known_hosts").await? else {
                let message = format!("Secret {namespace}/{name} has no key known_hosts; `ssh-keyscan HOST` prints what belongs there");
                return Err(Problem::Credential(message));
            };
            return Ok(Some(Credential::Ssh { key, known_hosts: hosts.expose_secret().to_owned() }));
        }
        let Some(password) = value("password").await? else {
            return Err(Problem::Credential(format!(
                "Secret {namespace}/{name} has neither ssh-privatekey nor password; create it with `kubectl -n {namespace} create secret generic {name} \
                 --from-literal=username=NAME --from-literal=password=TOKEN`, or with --from-file=ssh-privatekey=FILE --from-file=known_hosts=FILE"
            )));
        };
        // What a server takes with a token alone.
        let username = value("username").await?.map_or_else(|| "git".to_owned(), |name| name.expose_secret().trim().to_owned());
        Ok(Some(Credential::Basic { username, password: password.expose_secret().trim().to_owned().into() }))
    }

    /// Pushes the workspace of the final checkpoint.
    pub(super) async fn push(&self) -> Result<Done, Problem> {
        let Some((git, branch)) = self.machine.spec.push_to(self.machine.name()) else { return Ok(Done::Next) };
        let last = self.machine.status.as_ref().and_then(|status| status.final_checkpoint.clone()).unwrap_or_default();
        let checkpoint = self.context.objects.get::<Checkpoint>(self.machine.namespace(), &last).await?;
        let Some(checkpoint) = checkpoint else {
            return Err(Problem::NothingToPush(format!("its final checkpoint {last} is gone")));
        };
        let bundles = self.context.objects.bundle_chain(&checkpoint).await?;
        let Some(commit) = bundles.last().map(|bundle| bundle.commit.clone()) else {
            return Err(Problem::NothingToPush(format!(
                "checkpoint {last} has its workspace on its disk alone: the guest had no git, no directory status.workspace, or \
                 more than 11 MB in it when packed. A machine from that checkpoint can leave out what is no work (.gitignore), or push by itself"
            )));
        };
        let target = git::Target {
            url: git.clone(),
            branch: branch.clone(),
            credential: self.credential(self.machine.spec.push_secret()).await?,
            roots: self.context.config.source_roots.clone(),
        };
        let bundles: Vec<Vec<u8>> = bundles.into_iter().map(|bundle| bundle.bytes).collect();
        let commit = git::deliver(&bundles, &commit, &target).await.map_err(Problem::Push)?;
        Ok(Done::Stop(Some(Fact::Pushed(Pushed { git, branch, commit }))))
    }
}
