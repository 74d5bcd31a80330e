//! The command line of bootserve.

mod cli;

use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Context;
use bootserve::check::check;
use bootserve::config::{Config, OptionBytes};
use bootserve::dns::zone::SERIAL;
use bootserve::edits::store::stored_edits;
use bootserve::explain::{Asks, Captured, Explanation, Question, Setting, read_capture};
use bootserve::export::{Ethers, Genders, Hosts, Inventory, ZoneFile};
use bootserve::serve::serve;
use bootserve::status::show::{self, Form};
use bootserve::status::table::Look;
use bootspec::MacAddr;
use bootspec::diagnosis::explain;
use clap::{Args, Parser, Subcommand, ValueEnum};
use cli::machine::MachineCommand;
use cli::node::NodeCommand;
use cli::overlay::OverlayCommand;
use cli::power::PowerArgs;
use cli::token::TokenCommand;
use cli::{PrintArgs, block_on};
use manual::{CompletionsArgs, ManualArgs};
use serde::Serialize;
use tracing_subscriber::EnvFilter;
use uuid::Uuid;

/// DHCP, TFTP and HTTP boot server for diskless nodes
#[derive(Parser)]
#[command(version, max_term_width = 100)]
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
    /// Say what would change if another configuration took the place of this one
    #[command(after_help = "Each line is a setting: what it is now, and what it would be.")]
    Diff {
        #[command(flatten)]
        config: ConfigFile,
        /// The other configuration
        #[arg(value_name = "NEW")]
        new: PathBuf,
        /// Print the changes as JSON
        #[arg(long)]
        json: bool,
    },
    /// Say what a machine would be told, and why; nothing is sent or stored
    #[command(after_help = "Without --arch, --ipxe and --os: BIOS, UEFI x86-64 and iPXE in turn.")]
    Explain {
        #[command(flatten)]
        config: ConfigFile,
        #[command(flatten)]
        question: QuestionArgs,
        /// Print the explanations as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show and change nodes: those of the configuration, those of its inventory, and those that were added here
    #[command(subcommand)]
    Node(NodeCommand),
    /// Show machines that have introduced themselves, and make nodes of them
    #[command(subcommand)]
    Machine(MachineCommand),
    /// Say who may use the API that changes nodes
    #[command(subcommand)]
    Token(TokenCommand),
    /// Switch nodes on or off through their BMCs, or say which are on
    #[command(after_help = cli::power::HELP)]
    Power(PowerArgs),
    /// Show and render what nodes are given of their own
    #[command(subcommand)]
    Overlay(OverlayCommand),
    /// Say how each node's boot goes and what holds it up; those that need somebody first
    #[command(after_help = STATUS_HELP)]
    Status {
        #[command(flatten)]
        config: ConfigFile,
        /// Names, sets as @gpu or node-[000-099], or MAC addresses [default: all nodes, and all machines that had a lease]
        #[arg(value_name = "NODES")]
        nodes: Vec<String>,
        /// Go on until interrupted: on a terminal the table is drawn anew, else a line is printed for what changes
        #[arg(long)]
        watch: bool,
        /// Print the status as JSON; with --watch, a line for each node that changes
        #[arg(long)]
        json: bool,
    },
    /// Print what happened in the boots of a node
    Log {
        #[command(flatten)]
        config: ConfigFile,
        /// Name or MAC address
        #[arg(value_name = "NODE")]
        node: String,
        /// Go on with what happens, until interrupted
        #[arg(long)]
        follow: bool,
        /// Print the last lines of the node's console instead, as its newest report has them
        #[arg(long, conflicts_with_all = ["follow", "json"])]
        console: bool,
        /// Print the events as JSON; with --follow, one a line
        #[arg(long)]
        json: bool,
    },
    /// Write what the configuration says of the nodes in the formats of other programs
    #[command(subcommand)]
    Export(Export),
    /// Write manual pages of all commands
    Manual(ManualArgs),
    /// Print a script by which a shell completes arguments
    Completions(CompletionsArgs),
}

const STATUS_HELP: &str =
    "The running bootserve is asked, at the address that the configuration says. If it does not answer, its \
database is read, which says nothing of downloads that go on; not with --watch.

States: stuck, failed (init gave up), booting, parked (a failsafe shell, discover mode), ready, unseen.";

#[derive(Subcommand)]
enum Export {
    /// Lines for /etc/hosts
    Hosts {
        #[command(flatten)]
        args: PrintArgs,
        #[command(flatten)]
        leases: LeaseArgs,
    },
    /// A genders file: image and mode of each node, for pdsh, ClusterShell and nodeattr
    Genders {
        #[command(flatten)]
        args: PrintArgs,
    },
    /// A zone file for a name server
    Zone {
        #[command(flatten)]
        args: PrintArgs,
        #[command(flatten)]
        leases: LeaseArgs,
        /// Which zone, as --list names them [default: that of the names]
        #[arg(value_name = "ZONE")]
        zone: Option<String>,
        /// The serial number; servers that copy the zone copy it again when it is greater
        #[arg(long, value_name = "NUMBER", default_value_t = SERIAL)]
        serial: u32,
        /// List the zones: that of the names, and those of the addresses
        #[arg(long, conflicts_with_all = ["zone", "serial"])]
        list: bool,
    },
    /// Lines for /etc/ethers
    Ethers {
        #[command(flatten)]
        args: PrintArgs,
    },
}

#[derive(Args)]
struct LeaseArgs {
    /// Add the machines that have a lease now and no reservation
    #[arg(long)]
    leases: bool,
}

#[derive(Args)]
struct ConfigFile {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/bootnode/bootserve.toml")]
    config: PathBuf,
}

#[derive(Clone, Args)]
struct QuestionArgs {
    /// The MAC address that asks
    #[arg(long, required_unless_present = "pcap")]
    mac: Option<MacAddr>,
    /// Ask as firmware of this architecture (DHCP option 93): 0 BIOS, 7 UEFI x86-64, 11 UEFI ARM64, 16 HTTP Boot
    #[arg(long, value_name = "NUMBER", conflicts_with = "pcap")]
    arch: Vec<u16>,
    /// Ask as iPXE
    #[arg(long, conflicts_with = "pcap")]
    ipxe: bool,
    /// Ask as an operating system
    #[arg(long, conflicts_with = "pcap")]
    os: bool,
    /// Ask with this client id: a text, or 0x and hexadecimal digits
    #[arg(long, value_name = "ID", conflicts_with = "pcap")]
    client_id: Option<OptionBytes>,
    /// Ask as the machine with this UUID
    #[arg(long, conflicts_with = "pcap")]
    uuid: Option<Uuid>,
    /// Ask by the relay with this address
    #[arg(long, value_name = "ADDRESS", conflicts_with = "pcap")]
    relay: Option<Ipv4Addr>,
    /// Ask from this port of a relay or switch: a text, or 0x and hexadecimal digits
    #[arg(long, value_name = "ID", conflicts_with = "pcap")]
    circuit_id: Option<OptionBytes>,
    /// Explain the packets to ports 67 and 4011 in this capture; with --mac, those of this machine
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
}

impl QuestionArgs {
    fn packets(&self) -> anyhow::Result<Vec<Captured>> {
        if let Some(file) = &self.pcap {
            return Ok(read_capture(file)?);
        }
        let mac = self.mac.context("--mac is required without --pcap")?;
        let mut asks: Vec<_> = self.arch.iter().map(|arch| Asks::Firmware(*arch)).collect();
        asks.extend(self.ipxe.then_some(Asks::Ipxe));
        asks.extend(self.os.then_some(Asks::System));
        if asks.is_empty() {
            asks.extend([Asks::Firmware(0), Asks::Firmware(7), Asks::Ipxe]);
        }
        let Self { client_id, uuid, relay, circuit_id, .. } = self.clone();
        let question = |asks| {
            let (client_id, circuit_id) = (client_id.clone(), circuit_id.clone());
            Question { mac, asks, client_id, uuid, relay, circuit_id }
        };
        let packets = asks.into_iter().map(|asks| question(asks).packet()).collect::<Result<_, _>>();
        packets.context("cannot write the question")
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    /// For people
    Text,
    /// An object a line
    Json,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Serve { config, log_format } => {
            init_logging(log_format);
            serve_file(config)
        }
        Command::Check { config, json } => check_file(config, json),
        Command::Diff { config, new, json } => diff_files(config, new, json),
        Command::Explain { config, question, json } => explain_machine(config, &question, json),
        Command::Node(command) => command.run().map(|()| ExitCode::SUCCESS),
        Command::Machine(command) => command.run().map(|()| ExitCode::SUCCESS),
        Command::Token(command) => command.run().map(|()| ExitCode::SUCCESS),
        Command::Power(args) => args.run(),
        Command::Overlay(command) => command.run().map(|()| ExitCode::SUCCESS),
        Command::Status { config, nodes, watch, json } => show_status(&config, &nodes, watch, json),
        Command::Log { config, node, console: true, .. } => show_console(&config, &node),
        Command::Log { config, node, follow, json, .. } => show_log(&config, &node, follow, json),
        Command::Export(what) => export(&what),
        Command::Manual(args) => args.write::<Cli>().map(|()| ExitCode::SUCCESS),
        Command::Completions(args) => complete(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("bootserve: {}", explain(&*error));
        ExitCode::FAILURE
    })
}

fn serve_file(file: ConfigFile) -> anyhow::Result<ExitCode> {
    serve(&file.config)?;
    Ok(ExitCode::SUCCESS)
}

fn explain_machine(file: ConfigFile, question: &QuestionArgs, json: bool) -> anyhow::Result<ExitCode> {
    let config = read_config(&file)?;
    let packets = question.packets()?;
    let explanations = block_on(async {
        let setting = Setting::read(config).await?;
        let mut explanations = Vec::new();
        for packet in &packets {
            explanations.push(setting.explain(packet).await);
        }
        anyhow::Ok(explanations)
    })??;
    let is_meant = |explanation: &Explanation| question.mac.is_none() || explanation.mac == question.mac;
    let explanations: Vec<_> = explanations.into_iter().filter(is_meant).collect();
    print(
        match json {
            true => as_json(&explanations)?,
            false if explanations.is_empty() => "no packet to port 67 or 4011 is there".to_owned(),
            false => explanations.iter().map(Explanation::to_string).collect::<Vec<_>>().join("\n"),
        }
        .trim_end(),
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Reads the configuration, with what `bootserve node` has changed. Where that may not be read, the files are better than nothing.
fn read_config(file: &ConfigFile) -> anyhow::Result<Config> {
    let config = read_files(file)?;
    match block_on(stored_edits(&config.server.state))? {
        Ok(edits) => config.edited(edits).with_context(|| format!("cannot use {}", file.config.display())),
        Err(error) => {
            eprintln!(
                "bootserve: what bootserve node has changed is left out, as it cannot be read: {}",
                explain(&error)
            );
            Ok(config)
        }
    }
}

/// Reads the configuration as it stands in its files.
fn read_files(file: &ConfigFile) -> anyhow::Result<Config> {
    Config::read(&file.config).with_context(|| format!("cannot use {}", file.config.display()))
}

fn diff_files(old: ConfigFile, new: PathBuf, json: bool) -> anyhow::Result<ExitCode> {
    let [old, new] = [old, ConfigFile { config: new }].map(|file| read_config(&file));
    let changes = old?.settings().changes(&new?.settings());
    print(&match json {
        true => as_json(&changes)?,
        false if changes.is_empty() => "nothing would change".to_owned(),
        false => changes.to_string(),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn check_file(file: ConfigFile, json: bool) -> anyhow::Result<ExitCode> {
    let findings = block_on(check(&file.config))?;
    print(&match json {
        true => as_json(&findings)?,
        false => findings.to_string(),
    })?;
    Ok(if findings.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn export(what: &Export) -> anyhow::Result<ExitCode> {
    match what {
        Export::Hosts { args, leases } => {
            print_exported(args, &Hosts::of(&inventory(args, leases.leases)?)?)?
        }
        Export::Genders { args } => print_exported(args, &Genders::of(&inventory(args, false)?)?)?,
        Export::Zone { args, leases, list: true, .. } => {
            let names = ZoneFile::names(&inventory(args, leases.leases)?)?;
            args.print(&names, || names.join("\n"))?;
        }
        Export::Zone { args, leases, zone, serial, .. } => {
            let inventory = inventory(args, leases.leases)?;
            print_exported(args, &ZoneFile::of(&inventory, zone.as_deref(), *serial)?)?;
        }
        Export::Ethers { args } => print_exported(args, &Ethers::of(&inventory(args, false)?))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn inventory(args: &PrintArgs, with_leases: bool) -> anyhow::Result<Inventory> {
    let leases_at = with_leases.then(SystemTime::now);
    Ok(block_on(Inventory::read(read_config(&args.config)?, leases_at))??)
}

fn print_exported(args: &PrintArgs, exported: &(impl Serialize + Display)) -> anyhow::Result<()> {
    args.print(exported, || exported.to_string())
}

fn show_status(file: &ConfigFile, nodes: &[String], watch: bool, json: bool) -> anyhow::Result<ExitCode> {
    show::check_names(nodes)?;
    let (config, mut out) = (read_config(file)?, std::io::stdout());
    let is_terminal = out.is_terminal();
    let shown = match watch {
        true => show::watch(&config, nodes, || form(json, is_terminal), is_terminal, &mut out),
        // Whoever does not watch can scroll.
        false => show::status(&config, nodes, form(json, false), &mut out),
    };
    show::until_pipe_breaks(shown)?;
    Ok(ExitCode::SUCCESS)
}

fn show_log(file: &ConfigFile, node: &str, follow: bool, json: bool) -> anyhow::Result<ExitCode> {
    let (config, mut out) = (read_config(file)?, std::io::stdout());
    let form = form(json, false);
    let shown = match follow {
        true => show::follow(&config, node, form, &mut out),
        false => show::log(&config, node, form, &mut out),
    };
    show::until_pipe_breaks(shown)?;
    Ok(ExitCode::SUCCESS)
}

fn show_console(file: &ConfigFile, node: &str) -> anyhow::Result<ExitCode> {
    show::until_pipe_breaks(show::console(&read_config(file)?, node, &mut std::io::stdout()))?;
    Ok(ExitCode::SUCCESS)
}

/// How to write to the standard output; `fits_screen`: no more than there is room for.
fn form(json: bool, fits_screen: bool) -> Form {
    if json {
        return Form::Json;
    }
    let size = terminal_size::terminal_size().filter(|_| fits_screen);
    let (columns, lines) = size.map(|(width, height)| (width.0.into(), height.0.into())).unzip();
    Form::Text(Look { colours: use_colours(&std::io::stdout()), columns, lines })
}

fn as_json(value: &impl Serialize) -> anyhow::Result<String> {
    serde_json::to_string_pretty(value).context("cannot write the result as JSON")
}

fn complete(args: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    print(&args.script::<Cli>()?)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the result. Whoever closed the pipe has read enough; the exit status still tells the outcome.
fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to the standard output"),
    }
}

/// Colours are for terminals whose user did not object (no-color.org).
fn use_colours(output: &impl IsTerminal) -> bool {
    output.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn init_logging(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(use_colours(&std::io::stderr()));
    match format {
        LogFormat::Text => subscriber.init(),
        LogFormat::Json => subscriber.json().init(),
    }
}
