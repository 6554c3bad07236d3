//! Users as a server knows them: a name and groups.

/// The group that every authenticated user is in.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of those who proved nothing.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The name of those who proved nothing.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group that may do everything. Source: Kubernetes' RBAC, which it bypasses.
pub const MASTERS: &str = "system:masters";
/// Source: apiserver `serviceaccount.ServiceAccountUsernamePrefix`.
const ACCOUNT: &str = "system:serviceaccount:";
const ACCOUNTS: &str = "system:serviceaccounts";

/// Someone who proved who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
}

impl User {
    /// The owner of the hub, who holds its kubeconfig.
    pub fn admin() -> Self {
        Self { name: "admin".into(), uid: "admin".into(), groups: vec![MASTERS.into(), AUTHENTICATED.into()] }
    }

    /// A ServiceAccount.
    pub fn account(namespace: &str, name: &str, uid: &str) -> Self {
        let mut groups = account_groups(namespace);
        groups.push(AUTHENTICATED.into());
        Self { name: account_user(namespace, name), uid: uid.into(), groups }
    }

    /// The holder of a client certificate. Empty groups mean nothing and are left out.
    pub fn certified(name: &str, groups: impl IntoIterator<Item = String>) -> Self {
        let mut groups: Vec<String> = groups.into_iter().filter(|group| !group.is_empty()).collect();
        groups.push(AUTHENTICATED.into());
        Self { name: name.into(), uid: String::new(), groups }
    }

    /// Whether the user may do everything.
    pub fn is_master(&self) -> bool {
        self.groups.iter().any(|group| group == MASTERS)
    }
}

/// The user name of a ServiceAccount.
pub fn account_user(namespace: &str, name: &str) -> String {
    format!("{ACCOUNT}{namespace}:{name}")
}

/// Namespace and name of the ServiceAccount with this user name; `None` for other users.
pub fn account_of(user: &str) -> Option<(&str, &str)> {
    user.strip_prefix(ACCOUNT)?.split_once(':').filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty() && !name.contains(':'))
}

/// The groups of a namespace's ServiceAccounts.
pub fn account_groups(namespace: &str) -> Vec<String> {
    vec![ACCOUNTS.into(), format!("{ACCOUNTS}:{namespace}")]
}

/// What a request's credentials prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication {
    User(User),
    /// None were given.
    Anonymous,
    /// Some were given, and they are wrong: refused even where anonymous is welcome.
    Rejected,
}
