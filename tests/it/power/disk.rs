//! A disk that keeps apart what was synced and what was not, and what a power cut may leave of it.

use super::trace::Event;
use rand::{Rng, rngs::StdRng};
use std::{collections::BTreeMap, path::Path};

/// What a disk writes in whole or not at all.
const SECTOR: usize = 512;

#[derive(Default)]
struct File {
    synced: Vec<u8>,
    /// Since then, in order.
    pending: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write { offset: usize, data: Vec<u8> },
    Truncate(usize),
}

#[derive(Default)]
pub(super) struct Disk {
    /// By what they are called now; their content lasts beyond a removal that is not synced.
    files: BTreeMap<String, File>,
    /// The names as they were when the directory was last synced, and what was done to them since, in order.
    synced_names: Vec<(String, bool)>,
    pending_names: Vec<(String, bool)>,
}

impl Disk {
    pub(super) fn apply(&mut self, event: &Event) {
        match event {
            Event::Create(name) if !self.exists(name) => {
                self.files.insert(name.clone(), File::default());
                self.pending_names.push((name.clone(), true));
            }
            Event::Remove(name) => self.pending_names.push((name.clone(), false)),
            Event::Write { file, offset, data } => {
                self.file(file).pending.push(Change::Write { offset: *offset, data: data.clone() });
            }
            Event::Truncate { file, length } => self.file(file).pending.push(Change::Truncate(*length)),
            Event::Sync(name) if name.is_empty() => {
                let done = std::mem::take(&mut self.pending_names);
                self.synced_names.extend(done);
            }
            Event::Sync(name) => {
                let file = self.file(name);
                for change in std::mem::take(&mut file.pending) {
                    change.apply(&mut file.synced, |_| true);
                }
            }
            Event::Create(_) | Event::Answered(_) => {}
        }
    }

    fn file(&mut self, name: &str) -> &mut File {
        self.files.get_mut(name).unwrap_or_else(|| panic!("{name} was not created"))
    }

    fn exists(&self, name: &str) -> bool {
        let last = self.synced_names.iter().chain(&self.pending_names).rev().find(|(other, _)| other == name);
        last.is_some_and(|(_, there)| *there)
    }

    /// Writes what is left to a directory. Returns whether anything was lost.
    pub(super) fn leave(&self, to: &Path, random: &mut StdRng) -> bool {
        // A file system keeps the order of names.
        let named = random.random_range(0..=self.pending_names.len());
        let mut lost = named < self.pending_names.len();
        let names: BTreeMap<&String, bool> =
            self.synced_names.iter().chain(&self.pending_names[..named]).map(|(name, there)| (name, *there)).collect();
        // Nothing, a part or all of what was not synced.
        let share = [0.0, 0.5, 0.9, 1.0][random.random_range(0..4)];
        for (name, _) in names.into_iter().filter(|(_, there)| *there) {
            let file = &self.files[name];
            let mut content = file.synced.clone();
            for change in &file.pending {
                change.apply(&mut content, |_| {
                    let kept = random.random_bool(share);
                    lost |= !kept;
                    kept
                });
            }
            std::fs::write(to.join(name), content).unwrap();
        }
        lost
    }
}

impl Change {
    /// Sector by sector, those that `kept` says.
    fn apply(&self, content: &mut Vec<u8>, mut kept: impl FnMut(usize) -> bool) {
        match self {
            Self::Truncate(length) => {
                if kept(0) {
                    content.resize(*length, 0);
                }
            }
            Self::Write { offset, data } => {
                let mut at = 0;
                while at < data.len() {
                    let place = offset + at;
                    let end = (data.len() - at).min(SECTOR - place % SECTOR);
                    if kept(place / SECTOR) {
                        if content.len() < place + end {
                            content.resize(place + end, 0);
                        }
                        content[place..place + end].copy_from_slice(&data[at..at + end]);
                    }
                    at += end;
                }
            }
        }
    }
}
