//! The command line of bootserve.

use std::io::{ErrorKind, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use bootserve::check::check;
use bootserve::config::Config;
use bootserve::serve::serve;
use bootspec::diagnosis::explain;
use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

/// DHCP, TFTP and HTTP boot server for diskless nodes
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT
    Serve {
        #[command(flatten)]
        config: ConfigFile,
        /// How log lines are written to stderr; RUST_LOG says which
        #[arg(long, value_enum, default_value_t = LogFormat::Text)]
        log_format: LogFormat,
    },
    /// Check the configuration and what it refers to
    Check {
        #[command(flatten)]
        config: ConfigFile,
        /// Print the findings as JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
struct ConfigFile {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/bootnode/bootserve.toml")]
    config: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Serve { config, log_format } => {
            init_logging(log_format);
            serve_file(config)
        }
        Command::Check { config, json } => check_file(config, json),
    };
    result.unwrap_or_else(|error| {
        eprintln!("bootserve: {}", explain(&*error));
        ExitCode::FAILURE
    })
}

fn serve_file(file: ConfigFile) -> anyhow::Result<ExitCode> {
    let config =
        Config::read(&file.config).with_context(|| format!("cannot use {}", file.config.display()))?;
    serve(config)?;
    Ok(ExitCode::SUCCESS)
}

fn check_file(file: ConfigFile, json: bool) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let findings = runtime.block_on(check(&file.config));
    print(&match json {
        true => serde_json::to_string_pretty(&findings).context("cannot write the findings as JSON")?,
        false => findings.to_string(),
    })?;
    Ok(if findings.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints the result. Whoever closed the pipe has read enough; the exit status still tells the outcome.
fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to the standard output"),
    }
}

/// Colours are for terminals whose user did not object (no-color.org).
fn use_colours() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn init_logging(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(use_colours());
    match format {
        LogFormat::Text => subscriber.init(),
        LogFormat::Json => subscriber.json().init(),
    }
}
