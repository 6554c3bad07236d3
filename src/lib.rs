//! autovibe: AI agents with goals, in VMs of their own, spawned from checkpoints, metered, and reconciled.
//!
//! ```text
//! YAML ─apply─> apiserver ─admission─> store (one revision order) ─watch─> controller: observe → plan → act
//!                                        ^                                     |            |
//!                                        └──────────── status ─────────────────┘            v
//! agent in VM ─LLM request─> gateway ─reserve/settle─> ledger         Proxmox API · ZFS on the node · guest agent
//!                              └─ boundary ─> Checkpoint object ─> controller
//! ```
//!
//! Modules stand in rows; one uses only modules in rows above its own (`tests/it/layers.rs` checks the `use` lines):
//!
//! 1. words, no IO: `api` the kinds, `clock` time and timers, `random` chance, `wire` what guests and hub say to each other.
//! 2. hands, each for one outside thing: `store` SQL, `proxmox` its API, `zfs` its commands, `git` repositories, `llm` providers,
//!    `remote` the API of another server of ours.
//! 3. judgement, pure: `admission`, `auth`, `budget`, `lineage`, `boundary`, `agent`, `placement` which node.
//! 4. machinery: `objects` the one path to objects, `ledger`, `driver` Proxmox and ZFS composed, `world` what is observed,
//!    `runtime` the work queue.
//! 5. roles: `apiserver`, `gateway`, `controller`, `guest` the runner inside a VM, `lab` a
//!    Proxmox-compatible node.
//! 6. the program: `config`, `telemetry`, `cli`.
//!
//! Absences that hold everywhere: planning does no IO; no state outside the database, Proxmox and ZFS; no code reads the
//! clock but `clock`, draws but `random` or looks at the environment but `config`; nothing is destroyed that two marks do not
//! prove ours.

pub mod api;
pub mod clock;
pub mod random;
pub mod wire;

pub mod git;
pub mod llm;
pub mod proxmox;
pub mod remote;
pub mod store;
pub mod zfs;

pub mod admission;
pub mod agent;
pub mod auth;
pub mod boundary;
pub mod budget;
pub mod lineage;
pub mod placement;

pub mod driver;
pub mod ledger;
pub mod objects;
pub mod runtime;
pub mod world;

pub mod apiserver;
pub mod controller;
pub mod gateway;
pub mod guest;
pub mod lab;

pub mod cli;
pub mod config;
pub mod telemetry;
