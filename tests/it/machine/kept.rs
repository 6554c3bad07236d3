//! `autovibe checkpoint`, by the real command line: what a person takes stays, unless they leave it to the retention.

use super::exec::lives;
use crate::process::{Hub, LabOf, said};
use serde_json::Value;

#[test]
fn what_a_person_takes_stays_unless_they_leave_it_to_the_retention() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path();
    let _lab = LabOf(data.into());
    let hub = Hub::start(data, &["--lab", "simulated", "--listen", "127.0.0.1:0", "--gateway-listen", "127.0.0.1:0"]).serves();
    lives(data);
    for (arguments, keep) in
        [(&["checkpoint", "idle", "-o", "json"][..], "Forever"), (&["checkpoint", "idle", "--by-retention", "-o", "json"], "Policy")]
    {
        let taken: Value = serde_json::from_str(&said(data, arguments)).unwrap();
        assert_eq!((&taken["spec"]["keep"], &taken["status"]["phase"]), (&keep.into(), &"Ready".into()), "{taken:#}");
    }
    hub.terminate();
}
