//! A manifest. One that is accepted is written and read back without a change, its pieces cover the root's file without a
//! gap, and its numbers are safe to reckon with.
#![no_main]

use std::num::NonZeroUsize;

use bootspec::cmdline::BootParams;
use bootspec::manifest::{Manifest, Piece, Root};
use init::memory::{Addition, Memory, Supply, plan, plan_overlay};
use libfuzzer_sys::fuzz_target;

const MACHINE: Memory = Memory { total_bytes: 1 << 40, available_bytes: 1 << 39, initramfs_bytes: 1 << 20 };

fuzz_target!(|data: &[u8]| {
    let Ok(manifest) = Manifest::parse(data) else { return };
    assert_eq!(Manifest::parse(manifest.to_json().as_bytes()).ok().as_ref(), Some(&manifest));
    let carried = manifest.carried();
    assert_eq!(Manifest::parse(carried.to_json().as_bytes()).ok(), Some(carried));

    let (params, addition) = (BootParams::default(), Addition::default());
    match &manifest.root {
        Some(root @ Root::Archive(archive)) => {
            check_pieces(archive.pieces(), root.file_bytes());
            for supply in [Supply::Carried, Supply::Fetched] {
                if let Ok(budget) = plan(MACHINE, archive, supply, addition, &params, NonZeroUsize::MIN) {
                    assert_eq!(budget.workers, NonZeroUsize::MIN);
                }
            }
        }
        Some(root @ Root::FileSystem(image)) => {
            check_pieces(image.pieces(), root.file_bytes());
            for supply in [Supply::Carried, Supply::Fetched] {
                let _ = plan_overlay(MACHINE, image, supply, addition, &params);
            }
        }
        None => {}
    }
});

fn check_pieces(pieces: impl Iterator<Item = Piece>, file_bytes: u64) {
    let mut offset = 0;
    for piece in pieces {
        assert_eq!(piece.offset_bytes, offset);
        assert_ne!(piece.size_bytes, 0);
        offset += piece.size_bytes;
    }
    assert_eq!(offset, file_bytes);
}
