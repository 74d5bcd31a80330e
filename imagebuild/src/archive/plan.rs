//! Which entries go into which chunk.

use bootspec::manifest::Stage;

use super::content::{Content, likeness};
use super::scan::{Entry, Kind};

/// The contents of one chunk.
pub struct ChunkPlan<'a> {
    /// When it may be extracted.
    pub stage: Stage,
    /// What all of its entries hold.
    pub content: Content,
    /// Its entries in order.
    pub entries: Vec<&'a Entry>,
}

/// Cuts entries, sorted by path, into chunks: all directories; then everything with contents of its own; then hard links
/// and the directories again. What has contents is sorted so that like stands beside like; `contents` are those of
/// `entries`, in the same order. A new chunk is begun where another content begins, and whenever the next entry would take
/// the chunk past `chunk_bytes` of tar. A file larger than `chunk_bytes` gets a chunk of its own.
pub fn plan<'a>(entries: &'a [Entry], contents: &[Content], chunk_bytes: u64) -> Vec<ChunkPlan<'a>> {
    let directories: Vec<&Entry> = entries.iter().filter(|e| matches!(e.kind, Kind::Directory)).collect();
    let links = entries.iter().filter(|e| matches!(e.kind, Kind::HardLink(_)));
    let finish = links.chain(directories.iter().copied()).collect();

    let mut chunks =
        vec![ChunkPlan { stage: Stage::Directories, content: Content::Other, entries: directories }];
    let (mut last, mut filled_bytes) = (None, 0u64);
    for (content, entry) in sorted_by_likeness(entries, contents) {
        let bytes = estimated_tar_bytes(entry);
        filled_bytes = filled_bytes.saturating_add(bytes);
        if last != Some(content) || filled_bytes > chunk_bytes {
            chunks.push(ChunkPlan { stage: Stage::Entries, content, entries: Vec::new() });
            (last, filled_bytes) = (Some(content), bytes);
        }
        chunks.last_mut().expect("the directories' chunk is there").entries.push(entry);
    }
    chunks.push(ChunkPlan { stage: Stage::Finish, content: Content::Other, entries: finish });
    chunks
}

/// The sort is stable: of equals, the one whose path comes first stays first.
fn sorted_by_likeness<'a>(entries: &'a [Entry], contents: &[Content]) -> Vec<(Content, &'a Entry)> {
    let mut sorted: Vec<(Content, &Entry)> = contents
        .iter()
        .copied()
        .zip(entries)
        .filter(|(_, entry)| !matches!(entry.kind, Kind::Directory | Kind::HardLink(_)))
        .collect();
    sorted.sort_by_key(|(content, entry)| (*content, likeness(*content, &entry.path)));
    sorted
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
        check_contents(entries, &vec![Content::Other; entries.len()], expected);
    }

    fn check_contents(entries: &[Entry], contents: &[Content], expected: &[(Stage, &[&str])]) {
        let plan = plan(entries, contents, 4096);
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

    #[test]
    fn each_chunk_has_one_kind_of_content() {
        let (code, other) = (Content::X86Code, Content::Other);
        let entries = ["a", "b", "c", "d", "e"].map(|path| file(path, 512));
        let contents = [other, code, Content::OtherElf, code, other];
        check_contents(
            &entries,
            &contents,
            &[
                (Stage::Directories, &[]),
                (Stage::Entries, &["b", "d"]),
                (Stage::Entries, &["c"]),
                (Stage::Entries, &["a", "e"]),
                (Stage::Finish, &[]),
            ],
        );
    }

    #[test]
    fn like_names_stand_together() {
        let entries = ["af/x.mo", "af/y.mo", "be/x.mo", "be/y.mo", "doc"].map(|path| file(path, 1));
        let sorted: &[&str] = &["doc", "af/x.mo", "be/x.mo", "af/y.mo", "be/y.mo"];
        check(
            &entries,
            &[
                (Stage::Directories, &[]),
                (Stage::Entries, &sorted[..4]),
                (Stage::Entries, &sorted[4..]),
                (Stage::Finish, &[]),
            ],
        );
    }
}
