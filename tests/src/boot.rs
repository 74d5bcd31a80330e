//! `bootlab boot`: one node, one image.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, slice};

use anyhow::{Context, Result};
use bootspec::event::Phase;
use bootspec::manifest::{BootMode, Manifest};
use bootspec::store::{CURRENT, MANIFEST};

use crate::accel::Accel;
use crate::deadline::within;
use crate::lab::{Goal, Lab, Node};
use crate::qemu::NodeSpec;
use crate::report::BootReport;

/// A boot that ends in systemd's multi-user target, on an idle machine without KVM.
pub const IDLE_BOOT: Duration = Duration::from_secs(150);

/// What to boot.
pub struct Request {
    /// The machine and its image.
    pub node: NodeSpec,
    /// Where the image is.
    pub store: PathBuf,
    /// How init gets the root; by default as the image says.
    pub mode: Option<BootMode>,
    /// How far it must come; by default to the end of a boot in that mode.
    pub goal: Option<Goal>,
    /// How long that may take; by default what a boot into systemd takes.
    pub limit: Option<Duration>,
    /// Whether it goes on running until it is interrupted.
    pub keep: bool,
}

/// Boots the node and tells on standard error how it comes along.
pub fn run(request: &Request) -> Result<BootReport> {
    let Request { node: spec, store, mode, goal, limit, keep } = request;
    let manifest = read_manifest(store, &spec.image)?;
    let goal = goal.unwrap_or(usual_goal(mode.unwrap_or(manifest.mode)));
    let lab = Lab::start("boot", store, slice::from_ref(spec))?;
    let node = lab.boot(spec)?;
    let report = follow(&lab, &node, spec, goal, limit.unwrap_or_else(|| within(IDLE_BOOT)))?;
    if *keep {
        keep_running(&lab, &node, spec);
    }
    Ok(report)
}

/// Follows a node to its goal, with a line on standard error for each phase.
pub fn follow(lab: &Lab, node: &Node, spec: &NodeSpec, goal: Goal, limit: Duration) -> Result<BootReport> {
    let (name, accel) = (&spec.name, Accel::detect());
    eprintln!("{name}  power-on: {}, {}, {} MiB, {accel}", spec.image, spec.firmware, spec.memory_mib);
    let timeline = lab.follow(node, goal, limit, |phase, at| {
        eprintln!("{name}  {:6.1} s  {phase}", at.as_secs_f64());
    })?;
    Ok(BootReport::new(spec, &timeline))
}

/// Reads the image's description. bootserve refuses an image that is not there as well, but only when the node asks.
fn read_manifest(store: &Path, image: &str) -> Result<Manifest> {
    let version = if image.contains('/') { image.to_owned() } else { format!("{image}/{CURRENT}") };
    let path = store.join(version).join(MANIFEST);
    let store = store.display();
    let json = fs::read(&path).with_context(|| {
        format!("no image '{image}' in {store}\nhint: imagebuild build RECIPE --store {store}")
    })?;
    Manifest::parse(&json).with_context(|| format!("cannot read {}", path.display()))
}

/// The end of a boot in this mode.
const fn usual_goal(mode: BootMode) -> Goal {
    match mode {
        BootMode::Carried | BootMode::Fetched => Goal::Phase(Phase::Ready),
        BootMode::Failsafe => Goal::FailsafeShell,
        BootMode::Discover => Goal::Discovered,
    }
}

fn keep_running(lab: &Lab, node: &Node, spec: &NodeSpec) {
    eprintln!("{} goes on running until Ctrl-C", spec.name);
    eprintln!("  console  tail -f {}", node.console().log().display());
    eprintln!("  logs     {}", lab.dir().display());
    eprintln!("  network  ip netns exec {} ssh root@{}", lab.netns().name(), spec.address);
    while !node.console().wait_for_end(Duration::from_secs(3600)) {}
    eprintln!("{} went off", spec.name);
}
