//! Who is asking, and what they may do: tokens by hash, users, and the rules of role-based access. Pure: where tokens and
//! roles are kept, and which request wants what, is the caller's affair.

mod defaults;
mod machine;
mod policy;
mod rules;
mod tokens;
mod user;

#[cfg(test)]
mod tests;

pub use defaults::{cluster_role_bindings, cluster_roles};
pub use machine::{policy_of, rule_of};
pub use policy::{Decision, Documents, Policy, UnknownRole};
pub use rules::{Action, What, missing, summary};
pub use tokens::{AccountToken, TokenHash, bearer};
pub use user::{ANONYMOUS, AUTHENTICATED, Authentication, MASTERS, UNAUTHENTICATED, User, account_groups, account_of, account_user};

/// The API group of roles and bindings.
pub const RBAC: &str = "rbac.authorization.k8s.io";
