//! Processors and memory (kernel: Documentation/admin-guide/cputopology.rst, Documentation/filesystems/proc.rst).

use bootspec::facts::{Cpu, NumaNode, Text};

use super::dir::Dir;

/// The processors; those that are off do not count.
pub fn cpu(proc: &Dir, cpus: &Dir) -> Cpu {
    let topologies: Vec<_> =
        numbered(cpus, "cpu").map(|(_, cpu)| cpu.dir("topology")).filter(|dir| dir.has("core_id")).collect();
    let different = |file| {
        let mut texts = Vec::new();
        for text in topologies.iter().map(|topology| topology.text(file)) {
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        count(texts.len())
    };
    let info = proc.lines("cpuinfo").unwrap_or_default();
    Cpu {
        model: value(&info, "model name").and_then(Text::clean),
        sockets: different("physical_package_id"),
        // Numbers of cores are unique in a package at most; which threads share a core is unique everywhere.
        cores: different("thread_siblings_list"),
        threads: count(topologies.len()),
    }
}

/// All memory that the kernel has.
pub fn memory_bytes(proc: &Dir) -> u64 {
    let info = proc.lines("meminfo").unwrap_or_default();
    value(&info, "MemTotal").and_then(kib).unwrap_or(0)
}

/// The nodes with their memory and threads.
pub fn numa_nodes(nodes: &Dir) -> Vec<NumaNode> {
    let mut sorted: Vec<NumaNode> = Vec::new();
    for (id, node) in numbered(nodes, "node") {
        let memory_bytes = node_memory_bytes(&node).unwrap_or(0);
        let place = sorted.partition_point(|other| other.id < id);
        sorted.insert(place, NumaNode { id, memory_bytes, cpus: node.text("cpulist") });
    }
    sorted
}

/// `Node 0 MemTotal:       24685272 kB`
fn node_memory_bytes(node: &Dir) -> Option<u64> {
    let info = node.lines("meminfo")?;
    let line = info.lines().find(|line| line.contains(" MemTotal:"))?;
    kib(line.split_once(':')?.1)
}

/// The value of the first line `KEY : VALUE`.
fn value<'a>(lines: &'a str, key: &str) -> Option<&'a str> {
    let mut fields = lines.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(name, _)| name.trim_end() == key).map(|(_, value)| value)
}

/// `24685272 kB`
fn kib(text: &str) -> Option<u64> {
    text.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()?.checked_mul(1024)
}

/// The directories `cpu0`, `cpu1`… with their numbers.
fn numbered(dir: &Dir, prefix: &str) -> impl Iterator<Item = (u32, Dir)> {
    let number = move |dir: Dir| Some((dir.name().strip_prefix(prefix)?.parse().ok()?, dir));
    dir.dirs().into_iter().filter_map(number)
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
