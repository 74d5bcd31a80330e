//! The least memory with which a root is unpacked: a ladder of machines, from those that refuse to those that boot.
//!
//! A machine's memory is not all the system's: the kernel keeps some for its own code, page structures and firmware. So what
//! counts is MemTotal of the smallest machine that boots to the image's first program, against the root as the tmpfs
//! holds it, each file rounded up to pages, and 64 MiB for everything else.

use std::slice::from_ref;
use std::time::Duration;

use anyhow::{Result, bail};
use bootlab::console::Console;
use bootlab::deadline::wait_until;
use bootlab::direct::DirectSpec;
use bootlab::lab::{Lab, Node};
use bootlab::places::store_dir;
use bootlab::qemu::NodeSpec;
use bootspec::manifest::Root;
use bootspec::store::{INITRAMFS, VMLINUZ};
use serde::Serialize;
use serde_json::json;

use crate::image::{ARCHIVE, EXEC, EXEC_ARG, Image};
use crate::measure::{Goal, Measurement, Rounds};

const MIB: u64 = 1 << 20;
/// What unpacking may take beside the root.
const ALLOWANCE_BYTES: u64 = 64 * MIB;
/// How finely the least memory is found.
const STEP_MIB: u32 = 4;
/// From power-on to the first program, on an idle machine without KVM.
const IDLE_BOOT: Duration = Duration::from_secs(90);
const CPUS: u8 = 2;
/// A node that refuses stays on, so that its last line can be read.
const ON_FAILURE: &str = "bootnode.on_failure=halt";
/// The first program needs next to nothing, and what is looked for is what unpacking takes.
const NO_RESERVE: &str = "bootnode.reserve=0";

const REFUSED: &str = "FAILED [E-MEMORY]";
/// What init prints after the line that says why it gives up.
const LAST_WORDS: &str = "bootnode: remedy:";

/// How a boot ended.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum End {
    /// At the first program of the image, which found this MemTotal.
    Boots { total_bytes: u64 },
    /// Before unpacking, with the reason.
    Refuses,
    /// In another way.
    Dies { last_line: String },
}

pub fn carried(_: Rounds) -> Result<Vec<Measurement>> {
    let image = ARCHIVE.build()?;
    let lab = Lab::without_server("peak-memory-carried")?;
    let boot = |memory_mib| {
        let spec = DirectSpec {
            name: "node-000".parse()?,
            kernel: image.dir.join(VMLINUZ),
            initramfs: image.dir.join(INITRAMFS),
            kernel_args: format!("{EXEC_ARG} {ON_FAILURE} {NO_RESERVE}"),
            memory_mib,
            cpus: CPUS,
        };
        end_of(&lab.boot_directly(&spec)?)
    };
    ladder("peak-memory-carried", &image, boot)
}

pub fn fetched(_: Rounds) -> Result<Vec<Measurement>> {
    let image = ARCHIVE.build()?;
    let boot = |memory_mib| {
        let spec = NodeSpec {
            settings: toml::toml! { mode = "fetched" on_failure = "halt" reserve = "0" },
            kernel_args: vec![EXEC_ARG.to_owned()],
            memory_mib,
            cpus: CPUS,
            ..NodeSpec::classic(0, &image.image.to_string())
        };
        let lab = Lab::start("peak-memory-fetched", &store_dir(), from_ref(&spec))?;
        end_of(&lab.boot(&spec)?)
    };
    ladder("peak-memory-fetched", &image, boot)
}

/// Waits for the end of a boot.
fn end_of(node: &Node) -> Result<End> {
    let console = node.console();
    // The line that ends with the unit is whole.
    let total = || memory_total(console);
    let refused = || console.text().contains(REFUSED);
    wait_until(IDLE_BOOT, || total().is_some() || console.text().contains(LAST_WORDS) || console.ended());
    Ok(match total() {
        Some(total_bytes) => End::Boots { total_bytes },
        None if refused() => End::Refuses,
        None => End::Dies { last_line: console.tail().last_line().to_owned() },
    })
}

/// What the first program has printed.
fn memory_total(console: &Console) -> Option<u64> {
    let text = console.text();
    let (_, line) = text.split_once(EXEC)?;
    let (kib, _) = line.split_once(" kB")?;
    Some(kib.parse::<u64>().ok()? * 1024)
}

/// Finds the smallest machine that boots, and sees what one does that has a tenth less.
fn ladder(name: &'static str, image: &Image, boot: impl Fn(u32) -> Result<End>) -> Result<Vec<Measurement>> {
    let Some(Root::Archive(root)) = &image.manifest.root else { bail!("{} has a root archive", image.image) };
    let allowed_bytes = root.page_rounded_bytes + ALLOWANCE_BYTES;
    let mut rungs = Vec::new();
    let mut try_rung = |memory_mib| -> Result<End> {
        let end = boot(memory_mib)?;
        eprintln!("{name}: {memory_mib} MiB: {end:?}");
        rungs.push(json!({"memory_mib": memory_mib, "end": end}));
        Ok(end)
    };
    // Too little for certain, as the root alone takes more; and half as much again as is allowed.
    let mut too_little = u32::try_from(root.page_rounded_bytes / MIB)?;
    let mut enough = u32::try_from(allowed_bytes / MIB)? * 3 / 2;
    let End::Boots { mut total_bytes } = try_rung(enough)? else {
        bail!("{name}: does not boot with {enough} MiB")
    };
    while enough - too_little > STEP_MIB {
        let middle = (enough + too_little) / 2;
        match try_rung(middle)? {
            End::Boots { total_bytes: total } => (enough, total_bytes) = (middle, total),
            End::Refuses | End::Dies { .. } => too_little = middle,
        }
    }
    let a_tenth_less = enough - enough / 10;
    let refusal = try_rung(a_tenth_less)?;
    let mib = |bytes: u64| bytes as f64 / MIB as f64;
    let details = json!({
        "least_memory_mib": enough, "kernel_keeps_mib": f64::from(enough) - mib(total_bytes),
        "page_rounded_mib": mib(root.page_rounded_bytes), "inodes": root.inodes, "compressed_mib": mib(root.compressed_bytes()),
        "a_tenth_less_mib": a_tenth_less, "a_tenth_less": refusal, "rungs": rungs,
    });
    let measurement = Measurement::new(name, mib(total_bytes), mib(allowed_bytes), "MiB", Goal::AtMost(1.0));
    Ok(vec![measurement.with_details(details)])
}
