//! Whether the image fits into this machine's memory, and how the memory is divided.
//!
//! Two moments count. At the end of unpacking the machine holds the unpacked root and the decoders, and no compressed copy:
//! a chunk's is freed while the chunk is unpacked, whether it was carried or fetched. Then the root is handed over: the
//! decoders and the initramfs are gone, and the image's own init needs some memory for itself. A file system image stays as
//! it is, and what is written is beside it.

use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::Path;

use bootspec::cmdline::{BootParams, ByteSize, RootSize};
use bootspec::manifest::{RootArchive, RootFileSystem};
use rustix::fs::statfs;

const MIB: u64 = 1 << 20;
const PAGE_BYTES: u64 = 4096;
/// A tmpfs inode and its directory entry, in kernel memory.
const INODE_BYTES: u64 = 1024;
/// What making the root takes beside the root and the decoders: threads, their buffers, and what the kernel holds of a download.
const UNPACKING_BYTES: u64 = 4 * MIB;
/// What must be left beside the root for what runs in it, unless the command line says otherwise. Debian 12 comes up with
/// 36 MiB and does not with 32 (measured; docs/operations.md).
const RESERVE: ByteSize = ByteSize(48 * MIB);
const MEMINFO: &str = "/proc/meminfo";

/// The machine's memory (proc_meminfo(5)).
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// All that the kernel manages.
    pub total_bytes: u64,
    /// What could be used now. The initramfs is not in it: its pages cannot be evicted.
    pub available_bytes: u64,
    /// What the initramfs holds, and gives back when the root is handed over. 0 if it is a ramfs, which does not say.
    pub initramfs_bytes: u64,
}

/// The image does not fit.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not enough memory for the root file system and what runs in it: need {} MiB, have {} MiB (the machine has {} MiB in all)",
    need_bytes.div_ceil(MIB), have_bytes / MIB, total_bytes / MIB
)]
pub struct TooLittle {
    /// The root as it will be in memory, and what must be left beside it.
    pub need_bytes: u64,
    /// What is available, and what the compressed root will give back.
    pub have_bytes: u64,
    /// What the machine has in all.
    pub total_bytes: u64,
}

/// Where the compressed root is before it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Supply {
    /// In the initramfs, and so in memory.
    Carried,
    /// On the boot server.
    Fetched,
}

/// What is laid over the root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addition {
    /// Its files, each rounded up to pages.
    pub page_rounded_bytes: u64,
    /// Its files, directories and links.
    pub inodes: u64,
}

impl Addition {
    /// Both.
    pub fn and(self, other: Self) -> Self {
        Self {
            page_rounded_bytes: self.page_rounded_bytes.saturating_add(other.page_rounded_bytes),
            inodes: self.inodes.saturating_add(other.inodes),
        }
    }

    /// Adds an object of `size_bytes`.
    pub fn add(&mut self, size_bytes: u64) {
        let rounded = size_bytes.checked_next_multiple_of(PAGE_BYTES).unwrap_or(u64::MAX);
        self.page_rounded_bytes = self.page_rounded_bytes.saturating_add(rounded);
        self.inodes = self.inodes.saturating_add(1);
    }
}

/// What files and inodes take in a tmpfs.
fn tmpfs_bytes(page_rounded_bytes: u64, inodes: u64) -> u64 {
    page_rounded_bytes.saturating_add(inodes.saturating_mul(INODE_BYTES))
}

/// How the memory is to be used.
#[derive(Debug, PartialEq, Eq)]
pub struct Budget {
    /// Threads that unpack.
    pub workers: NonZeroUsize,
    /// Mount options of the root's tmpfs.
    pub tmpfs_options: String,
}

/// Reads [`MEMINFO`], and how much is in use of the file system at `initramfs`.
pub fn read(initramfs: &Path) -> io::Result<Memory> {
    let text = fs::read_to_string(MEMINFO)?;
    let usage = statfs(initramfs)?;
    // In a ramfs all fields are 0.
    let initramfs_bytes =
        usage.f_blocks.saturating_sub(usage.f_bfree).saturating_mul(usage.f_bsize.try_into().unwrap_or(0));
    parse(&text, initramfs_bytes).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{MEMINFO} has no MemTotal or MemAvailable"))
    })
}

fn parse(text: &str, initramfs_bytes: u64) -> Option<Memory> {
    let field = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(Memory { total_bytes: field("MemTotal")?, available_bytes: field("MemAvailable")?, initramfs_bytes })
}

/// Checks that the unpacked root fits with what is laid over it, and divides what there is.
pub fn plan(
    memory: Memory,
    root: &RootArchive,
    supply: Supply,
    addition: Addition,
    params: &BootParams,
    cores: NonZeroUsize,
) -> Result<Budget, TooLittle> {
    let inodes = root.inodes.saturating_add(addition.inodes);
    let page_rounded_bytes = root.page_rounded_bytes.saturating_add(addition.page_rounded_bytes);
    let unpacked_bytes = tmpfs_bytes(page_rounded_bytes, inodes);
    let chunks_bytes = match supply {
        // They are in memory, whatever the manifest says.
        Supply::Carried => root.compressed_bytes().min(memory.total_bytes),
        Supply::Fetched => 0,
    };
    let have_bytes = memory.available_bytes.saturating_add(chunks_bytes);
    let without_decoders = unpacked_bytes.saturating_add(UNPACKING_BYTES);
    let need_bytes = without_decoders
        .saturating_add(root.decoder_bytes)
        .max(unpacked_bytes.saturating_add(reserve_bytes(memory, chunks_bytes, params)));
    if have_bytes < need_bytes {
        return Err(TooLittle { need_bytes, have_bytes, total_bytes: memory.total_bytes });
    }
    let affordable = (have_bytes - without_decoders) / root.decoder_bytes.max(1);
    let wanted = params.workers.map_or(cores, NonZeroUsize::from);
    let workers = wanted.get().min(root.chunks.len()).min(usize::try_from(affordable).unwrap_or(usize::MAX));
    Ok(Budget {
        workers: NonZeroUsize::new(workers).unwrap_or(NonZeroUsize::MIN),
        tmpfs_options: tmpfs_options(memory, params, unpacked_bytes, inodes),
    })
}

/// Checks that the file system image fits with what is laid over it, and gives the mount options of the tmpfs above it.
pub fn plan_overlay(
    memory: Memory,
    root: &RootFileSystem,
    supply: Supply,
    addition: Addition,
    params: &BootParams,
) -> Result<String, TooLittle> {
    let (image_bytes, carried_bytes) = match supply {
        Supply::Carried => (0, root.size_bytes),
        Supply::Fetched => (root.size_bytes, 0),
    };
    let added_bytes = tmpfs_bytes(addition.page_rounded_bytes, addition.inodes);
    // The image is fetched or verified before the initramfs is gone, which takes some as well.
    let beside_bytes = reserve_bytes(memory, carried_bytes, params).max(UNPACKING_BYTES);
    let need_bytes = image_bytes.saturating_add(added_bytes).saturating_add(beside_bytes);
    let have_bytes = memory.available_bytes;
    if have_bytes < need_bytes {
        return Err(TooLittle { need_bytes, have_bytes, total_bytes: memory.total_bytes });
    }
    let left = Memory { total_bytes: memory.total_bytes.saturating_sub(root.size_bytes), ..memory };
    Ok(tmpfs_options(left, params, added_bytes, addition.inodes))
}

/// What the image's own programs need beyond what the initramfs gives back when they start. Of the initramfs, so much is
/// counted already, or stays.
fn reserve_bytes(memory: Memory, counted_bytes: u64, params: &BootParams) -> u64 {
    let ByteSize(reserve_bytes) = params.reserve.unwrap_or(RESERVE);
    reserve_bytes.saturating_sub(memory.initramfs_bytes.saturating_sub(counted_bytes))
}

/// By default the root may grow over half of the memory that it does not take itself, and may have as many inodes more
/// as it could fill with one page each.
fn tmpfs_options(memory: Memory, params: &BootParams, unpacked_bytes: u64, unpacked_inodes: u64) -> String {
    let size_bytes = match params.root_size {
        Some(RootSize::Bytes(bytes)) => bytes,
        Some(RootSize::Percent(percent)) => memory.total_bytes / 100 * u64::from(percent),
        None => unpacked_bytes + memory.total_bytes.saturating_sub(unpacked_bytes) / 2,
    };
    let inodes = params.root_inodes.unwrap_or(unpacked_inodes + size_bytes / PAGE_BYTES);
    let policy = params.root_mpol.as_ref().map_or(String::new(), |policy| format!(",mpol={policy}"));
    format!("mode=755,size={size_bytes},nr_inodes={inodes}{policy}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bootspec::Sha256Digest;
    use bootspec::manifest::{Chunk, Compression, Stage};
    use std::io::Write;

    const MACHINE: Memory =
        Memory { total_bytes: 1000 * MIB, available_bytes: 500 * MIB, initramfs_bytes: 0 };
    const NONE: Addition = Addition { page_rounded_bytes: 0, inodes: 0 };
    const CORES: NonZeroUsize = NonZeroUsize::new(8).unwrap();

    fn root(unpacked_bytes: u64, chunks: usize) -> RootArchive {
        let chunk = Chunk {
            stage: Stage::Entries,
            offset_bytes: 0,
            size_bytes: 10 * MIB,
            tar_bytes: 0,
            sha256: Sha256Digest::new([0; 32]),
        };
        RootArchive {
            file: "rootfs.tar.xz".parse().unwrap(),
            compression: Compression::Xz,
            chunks: vec![chunk; chunks],
            unpacked_bytes,
            page_rounded_bytes: unpacked_bytes,
            inodes: 1024,
            decoder_bytes: 9 * MIB,
        }
    }

    fn check_workers(unpacked_mib: u64, chunks: usize, params: &str, expected: usize) {
        let (params, _) = BootParams::parse(params);
        let budget =
            plan(MACHINE, &root(unpacked_mib * MIB, chunks), Supply::Carried, NONE, &params, CORES).unwrap();
        assert_eq!(budget.workers.get(), expected);
    }

    #[test]
    fn workers_are_capped_by_cores_chunks_parameter_and_memory() {
        check_workers(100, 20, "", 8);
        check_workers(100, 3, "", 3);
        check_workers(100, 20, "bootnode.workers=2", 2);
        // 500 + 20 * 10 MiB, less 660 + 1 + 4 MiB, is enough for three decoders.
        check_workers(660, 20, "bootnode.reserve=0", 3);
    }

    #[test]
    fn what_the_initramfs_gives_back_is_there_for_the_images_init() {
        let plan = |root_mib, initramfs_mib, supply| {
            let machine = Memory { initramfs_bytes: initramfs_mib * MIB, ..MACHINE };
            let plan = plan(machine, &root(root_mib * MIB, 20), supply, NONE, &BootParams::default(), CORES);
            plan.map_err(|error| error.need_bytes / MIB)
        };
        // With one MiB for the root's inodes and 48 for what runs in it.
        assert_eq!(plan(480, 0, Supply::Fetched), Err(529));
        assert!(plan(480, 29, Supply::Fetched).is_ok());
        // The decoder is there before the initramfs is gone, with 4 MiB for the rest.
        assert!(plan(486, 100, Supply::Fetched).is_ok());
        assert_eq!(plan(487, 100, Supply::Fetched), Err(501));
        // The chunks, 200 MiB of it, are counted once.
        assert_eq!(plan(680, 200, Supply::Carried), Err(729));
        assert!(plan(680, 229, Supply::Carried).is_ok());
    }

    #[test]
    fn too_little_memory_says_what_is_needed_and_what_there_is() {
        let plan = |supply| plan(MACHINE, &root(700 * MIB, 20), supply, NONE, &BootParams::default(), CORES);
        let error = plan(Supply::Carried).unwrap_err();
        assert!(error.to_string().contains("need 749 MiB, have 700 MiB"), "{error}");
        // What is fetched gives no memory back.
        let error = plan(Supply::Fetched).unwrap_err();
        assert!(error.to_string().contains("need 749 MiB, have 500 MiB"), "{error}");
    }

    #[test]
    fn what_must_be_left_is_what_the_command_line_says() {
        let plan = |params| {
            let (params, _) = BootParams::parse(params);
            plan(MACHINE, &root(400 * MIB, 20), Supply::Fetched, NONE, &params, CORES)
        };
        assert!(plan("bootnode.reserve=99M").is_ok());
        assert_eq!(plan("bootnode.reserve=100M").unwrap_err().need_bytes, 501 * MIB);
        assert_eq!(plan("bootnode.reserve=18446744073709551615").unwrap_err().need_bytes, u64::MAX);
    }

    #[test]
    fn an_image_stays_in_memory_beside_what_is_written() {
        let image = |size_mib| RootFileSystem {
            file: "rootfs.squashfs".parse().unwrap(),
            format: bootspec::manifest::FileSystemFormat::Squashfs,
            size_bytes: size_mib * MIB,
            block_bytes: MIB,
            blocks: Vec::new(),
        };
        let plan =
            |size_mib, supply| plan_overlay(MACHINE, &image(size_mib), supply, NONE, &BootParams::default());
        let emptied = Memory { initramfs_bytes: 100 * MIB, ..MACHINE };
        let params = BootParams::default();
        assert!(plan_overlay(emptied, &image(496), Supply::Fetched, NONE, &params).is_ok());
        assert!(plan_overlay(emptied, &image(497), Supply::Fetched, NONE, &params).is_err());
        assert_eq!(plan(400, Supply::Fetched).unwrap(), "mode=755,size=314572800,nr_inodes=76800");
        assert!(plan(600, Supply::Carried).is_ok());
        let error = plan(600, Supply::Fetched).unwrap_err();
        assert!(error.to_string().contains("need 648 MiB, have 500 MiB"), "{error}");
    }

    #[test]
    fn absurd_sizes_do_not_overflow() {
        let plan =
            |root, addition| plan(MACHINE, &root, Supply::Carried, addition, &BootParams::default(), CORES);
        assert!(plan(root(u64::MAX, 1), NONE).is_err());
        let mut compressed = RootArchive { inodes: u64::MAX, ..root(u64::MAX, 1) };
        compressed.chunks[0].size_bytes = u64::MAX;
        assert!(plan(compressed, NONE).is_err());
        assert!(plan(root(MIB, 1), Addition { page_rounded_bytes: u64::MAX, inodes: u64::MAX }).is_err());
    }

    #[test]
    fn what_is_laid_over_the_root_must_fit_as_well() {
        let addition = Addition { page_rounded_bytes: 60 * MIB, inodes: 1024 };
        let params = BootParams::default();
        let archive = root(640 * MIB, 20);
        let budget = plan(MACHINE, &archive, Supply::Carried, NONE, &params, CORES).unwrap();
        assert_eq!(budget.workers.get(), 6);
        let error = plan(MACHINE, &archive, Supply::Carried, addition, &params, CORES).unwrap_err();
        assert!(error.to_string().contains("need 750 MiB, have 700 MiB"), "{error}");
        // The limit of the tmpfs grows by what is sure to be written.
        let budget = plan(MACHINE, &root(MIB, 1), Supply::Carried, addition, &params, CORES).unwrap();
        let unpacked = 63 * MIB;
        let size = unpacked + (MACHINE.total_bytes - unpacked) / 2;
        let expected = format!("mode=755,size={size},nr_inodes={}", 2 * 1024 + size / 4096);
        assert_eq!(budget.tmpfs_options, expected);
        let image = RootFileSystem {
            file: "rootfs.squashfs".parse().unwrap(),
            format: bootspec::manifest::FileSystemFormat::Squashfs,
            size_bytes: 420 * MIB,
            block_bytes: MIB,
            blocks: Vec::new(),
        };
        assert!(plan_overlay(MACHINE, &image, Supply::Fetched, NONE, &params).is_ok());
        let error = plan_overlay(MACHINE, &image, Supply::Fetched, addition, &params).unwrap_err();
        assert!(error.to_string().contains("need 529 MiB, have 500 MiB"), "{error}");
    }

    #[test]
    fn tmpfs_options_follow_the_parameters() {
        let line = "bootnode.root_size=50% bootnode.root_inodes=7 bootnode.root_mpol=interleave";
        let budget =
            plan(MACHINE, &root(MIB, 1), Supply::Carried, NONE, &BootParams::parse(line).0, CORES).unwrap();
        assert_eq!(budget.tmpfs_options, "mode=755,size=524288000,nr_inodes=7,mpol=interleave");
    }

    #[test]
    fn meminfo_is_read_in_kibibytes() {
        let memory = parse("MemTotal:        1000 kB\nMemFree: 5 kB\nMemAvailable:     10 kB\n", 7).unwrap();
        assert_eq!((memory.total_bytes, memory.available_bytes), (1_024_000, 10_240));
        assert_eq!(memory.initramfs_bytes, 7);
        assert!(parse("MemTotal: 1 kB", 0).is_none());
    }

    #[test]
    fn what_a_tmpfs_holds_is_counted_and_a_file_system_without_sizes_holds_nothing() {
        let mut file = tempfile::tempfile_in("/dev/shm").unwrap();
        file.write_all(&vec![1; 1 << 20]).unwrap();
        let memory = read(Path::new("/dev/shm")).unwrap();
        assert!(memory.initramfs_bytes >= MIB, "{memory:?}");
        assert!(memory.total_bytes >= memory.available_bytes, "{memory:?}");
        assert_eq!(read(Path::new("/proc")).unwrap().initramfs_bytes, 0);
    }
}
