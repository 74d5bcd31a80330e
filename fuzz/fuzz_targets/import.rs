//! Bytes as an exported image, with right checksums as in `tar`. What is refused leaves no version and no draft; what is taken
//! is whole, and nothing comes to lie elsewhere.
#![no_main]

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use bootnode_fuzz::mend_checksums;
use imagebuild::progress::Progress;
use imagebuild::store::Store;
use imagebuild::transfer::{Terms, import};
use imagebuild::verify::verify;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let file = mend_checksums(data);
    let dir = dir();
    let store = Store::new(dir.join("store"));
    let step = Progress::quiet().step("import");
    let taken = import(&store, &*file, "the file", Terms::default(), &step);
    let found = versions(&dir.join("store"));
    match taken {
        Ok(arrival) => {
            assert_eq!(found, [arrival.image.to_string()]);
            let damage = verify(&store, &arrival.image, &[], |_| ()).expect("it can be read");
            assert!(damage.is_empty(), "{damage:?}");
        }
        Err(_) => assert!(found.is_empty(), "{found:?}"),
    }
    assert!(names(dir).iter().all(|name| name == "store"));
    // It is not there if nothing was begun.
    let _ = fs::remove_dir_all(dir.join("store"));
});

/// An empty directory, the same for all inputs.
fn dir() -> &'static Path {
    static DIR: OnceLock<std::path::PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("bootnode-fuzz-import.{}", std::process::id()));
        fs::create_dir(&dir).expect("TMPDIR is writable");
        dir
    })
}

/// What is in the directories of the images: `NAME/VERSION`, or a draft.
fn versions(store: &Path) -> Vec<String> {
    let of = |image: String| {
        let names = names(&store.join(&image));
        names.into_iter().map(move |version| format!("{image}/{version}"))
    };
    names(store).into_iter().flat_map(of).collect()
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.map(|entry| entry.expect("it can be listed").file_name().to_string_lossy().into_owned()).collect()
}
