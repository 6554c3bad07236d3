//! A model node in this process, whose guests find no gateway.

use autovibe::lab::{self, Lab, Mode};
use std::{path::Path, time::Duration};

/// Its state lies in `lab` below `directory`.
pub(crate) async fn start(directory: &Path) -> Lab {
    rustls::crypto::ring::default_provider().install_default().ok();
    let config = lab::Config {
        mode: Mode::Simulated,
        data: directory.join("lab"),
        listen: "127.0.0.1:0".parse().unwrap(),
        gateway: "127.0.0.1:9".parse().unwrap(),
        lag: Duration::ZERO,
        refusal: Duration::ZERO,
        setup: None,
    };
    lab::start(config).await.unwrap()
}
