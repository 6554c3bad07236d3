//! Imports images.

use super::observe::Observed;
use super::plan::Plan;
use crate::runtime::Seen;

/// Imports what is planned, one after the other, and returns what is there then.
pub(super) async fn import(plan: &Plan, mut observed: Observed) -> Observed {
    let Some(driver) = observed.link.as_ref().map(|link| link.driver.clone()) else { return observed };
    for (name, file) in &plan.imports {
        let seen = match driver.import_image(file, name).await {
            Ok(image) => {
                tracing::info!(zfs.dataset = %image.snapshot.dataset, "imported image {name}");
                Seen::Present(image)
            }
            Err(error) => Seen::unknown(error),
        };
        observed.images.insert(name.clone(), seen);
    }
    observed
}
