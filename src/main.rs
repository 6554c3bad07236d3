//! Parses arguments, starts the role, prints the error.

use autovibe::{cli, config, telemetry};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    let environment = config::Environment::read();
    telemetry::start(&environment, arguments.log_filter());
    // One process, one TLS implementation; a second call would only say that it is there already.
    rustls::crypto::ring::default_provider().install_default().ok();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the threads of autovibe could not be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(cli::run(arguments, environment));
    // What is still blocked (a read of the terminal) must not keep the process.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        // `autovibe get … | head` closes our output early; that is no failure.
        Err(error) if cli::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", cli::complaint(&error));
            ExitCode::FAILURE
        }
    }
}
