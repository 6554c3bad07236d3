//! Makes and reads git bundles of a workspace.
