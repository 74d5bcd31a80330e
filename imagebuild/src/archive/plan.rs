//! Which entries go into which chunk.

use bootspec::manifest::Stage;

use super::scan::{Entry, Kind};

/// The contents of one chunk.
pub struct ChunkPlan<'a> {
    /// When it may be extracted.
    pub stage: Stage,
    /// Its entries in order.
    pub entries: Vec<&'a Entry>,
}

/// Cuts sorted entries into chunks: all directories; then everything with contents of its own, a new chunk begun
/// whenever the next entry would take the chunk past `chunk_bytes` of tar; then hard links and the directories again.
/// A file larger than `chunk_bytes` gets a chunk of its own.
pub fn plan(entries: &[Entry], chunk_bytes: u64) -> Vec<ChunkPlan<'_>> {
    let directories: Vec<&Entry> = entries.iter().filter(|e| matches!(e.kind, Kind::Directory)).collect();
    let links = entries.iter().filter(|e| matches!(e.kind, Kind::HardLink(_)));
    let finish = links.chain(directories.iter().copied()).collect();

    let mut chunks = vec![ChunkPlan { stage: Stage::Directories, entries: directories }];
    let mut filled_bytes = u64::MAX;
    for entry in entries.iter().filter(|e| !matches!(e.kind, Kind::Directory | Kind::HardLink(_))) {
        let bytes = estimated_tar_bytes(entry);
        if filled_bytes.saturating_add(bytes) > chunk_bytes {
            chunks.push(ChunkPlan { stage: Stage::Entries, entries: Vec::new() });
            filled_bytes = 0;
        }
        filled_bytes += bytes;
        chunks.last_mut().expect("the directories' chunk is there").entries.push(entry);
    }
    chunks.push(ChunkPlan { stage: Stage::Finish, entries: finish });
    chunks
}

/// Header and contents. The length of a sparse file is an overestimate, which costs a smaller chunk and nothing else.
fn estimated_tar_bytes(entry: &Entry) -> u64 {
    let contents = match entry.kind {
        Kind::File { size_bytes, .. } => size_bytes.next_multiple_of(512),
        _ => 0,
    };
    512 + contents
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, kind: Kind) -> Entry {
        Entry {
            path: path.into(),
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime_seconds: 0,
            mtime_nanos: 0,
            xattrs: vec![],
        }
    }

    fn file(path: &str, size_bytes: u64) -> Entry {
        entry(path, Kind::File { size_bytes, has_holes: false })
    }

    fn check(entries: &[Entry], expected: &[(Stage, &[&str])]) {
        let plan = plan(entries, 4096);
        let found: Vec<(Stage, Vec<&str>)> = plan
            .iter()
            .map(|c| (c.stage, c.entries.iter().map(|e| e.path.to_str().unwrap()).collect()))
            .collect();
        let expected: Vec<_> = expected.iter().map(|(stage, paths)| (*stage, paths.to_vec())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn chunks_are_filled_in_order_and_large_files_stand_alone() {
        let entries = [
            entry("", Kind::Directory),
            file("a", 1024),
            file("b", 2048),
            file("big", 1 << 30),
            file("c", 1),
            entry("d", Kind::Directory),
        ];
        check(
            &entries,
            &[
                (Stage::Directories, &["", "d"]),
                (Stage::Entries, &["a", "b"]),
                (Stage::Entries, &["big"]),
                (Stage::Entries, &["c"]),
                (Stage::Finish, &["", "d"]),
            ],
        );
    }

    #[test]
    fn hard_links_come_before_the_directories_times() {
        let entries = [entry("", Kind::Directory), file("a", 1), entry("b", Kind::HardLink("a".into()))];
        check(
            &entries,
            &[(Stage::Directories, &[""]), (Stage::Entries, &["a"]), (Stage::Finish, &["b", ""])],
        );
    }
}
