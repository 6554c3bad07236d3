//! The drivers that the controllers of this process have open, for others in it that are to reach a guest.

use super::Driver;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// By the name of their Hub; cheap to clone. Empty in a process that does not lead.
#[derive(Clone, Default)]
pub struct Drivers(Arc<Mutex<BTreeMap<String, Driver>>>);

impl Drivers {
    pub fn of(&self, hub: &str) -> Option<Driver> {
        self.all().get(hub).cloned()
    }
    /// What a Hub's driver is from now on; `None` when there is none.
    pub fn set(&self, hub: &str, driver: Option<Driver>) {
        match driver {
            Some(driver) => drop(self.all().insert(hub.to_owned(), driver)),
            None => drop(self.all().remove(hub)),
        }
    }
    /// The controllers stopped.
    pub fn clear(&self) {
        self.all().clear();
    }
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Driver>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Drivers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.all().keys()).finish()
    }
}
