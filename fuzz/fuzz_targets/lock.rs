//! A lock file. One that is accepted is written and read back without a change, and names its package files by single path
//! components.
#![no_main]

use std::path::{Component, Path};

use imagebuild::lock::Lock;
use imagebuild::source::PackageFormat;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(lock) = Lock::parse(text) else { return };
    assert_eq!(Lock::parse(&lock.to_toml()).ok().as_ref(), Some(&lock));
    for package in &lock.packages {
        for format in [PackageFormat::Deb, PackageFormat::Rpm] {
            let name = format.file_name(package);
            let components: Vec<_> = Path::new(&name).components().collect();
            assert!(matches!(components[..], [Component::Normal(_)]), "{name}");
        }
    }
});
