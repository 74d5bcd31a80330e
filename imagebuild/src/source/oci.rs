//! Container images: skopeo(1) brings one into an OCI image layout, from wherever and in whatever format it is, and checks its
//! digests; umoci(1) applies its layers, with their whiteouts and attributes.
//! What the image says about running it (entry point, environment, user) has no meaning for a node and is left out.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::{Job, SourceError, make_dir, set_proxy};
use crate::file_error::failed;
use crate::recipe::{OciImage, Proxy};
use crate::sandbox::View;
use crate::tool::program;
use crate::user_namespace;

/// Where the passwords of registries are found (containers-auth.json(5)).
const AUTH_VARIABLES: [&str; 2] = ["HOME", "XDG_RUNTIME_DIR"];
/// What skopeo's copy is called.
const TAG: &str = "root";
/// The member that tells an archive of docker's from one in the OCI image layout. Newer dockers write both.
const DOCKER_MANIFEST: &str = "manifest.json";
const OCI_INDEX: &str = "index.json";

impl Job<'_> {
    pub(super) fn unpack_oci(&self, image: &OciImage, proxy: Option<&Proxy>) -> Result<(), SourceError> {
        let work = self.root().with_extension("oci");
        make_dir(&work)?;
        let (layout, bundle) = (work.join("layout"), work.join("bundle"));
        let mut copy = program("skopeo");
        proxy.iter().for_each(|proxy| set_proxy(&mut copy, proxy));
        if user_namespace::is_entered() {
            // Root's own are not for this user.
            copy.envs(AUTH_VARIABLES.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        }
        copy.args(["copy", "--quiet", "--insecure-policy"]);
        copy.args(
            self.architecture.map(|architecture| format!("--override-arch={}", architecture.oci_name())),
        );
        if let OciImage::Registry { tls_verify: false, .. } = image {
            copy.arg("--src-tls-verify=false");
        }
        copy.arg(reference(image)?).arg(format!("oci:{}:{TAG}", layout.display()));
        self.tools.run("fetching the container image with skopeo", View::Host, copy, self.step)?;
        let mut unpack = program("umoci");
        unpack.args(["unpack", "--image"]).arg(format!("{}:{TAG}", layout.display())).arg(&bundle);
        self.tools.run("unpacking the container image with umoci", View::Host, unpack, self.step)?;
        let root = bundle.join("rootfs");
        fs::rename(&root, self.root()).map_err(failed("move", &root))?;
        fs::remove_dir_all(&work).map_err(failed("remove", &work))?;
        Ok(())
    }
}

/// The image as skopeo names it (containers-transports(5)).
fn reference(image: &OciImage) -> Result<String, SourceError> {
    let tagged = |transport: &str, path: &Path, tag: &Option<String>| {
        let tag = tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
        format!("{transport}:{}{tag}", path.display())
    };
    Ok(match image {
        OciImage::Archive { path, tag } => tagged(archive_transport(path)?, path, tag),
        OciImage::Layout { path, tag } => tagged("oci", path, tag),
        OciImage::Registry { reference, .. } => format!("docker://{reference}"),
    })
}

/// Which kind of archive lies at `path`.
fn archive_transport(path: &Path) -> Result<&'static str, SourceError> {
    let names = member_names(path).map_err(failed("read", path))?;
    let has = |name: &str| names.iter().any(|member| member == name);
    if has(DOCKER_MANIFEST) {
        Ok("docker-archive")
    } else if has(OCI_INDEX) {
        Ok("oci-archive")
    } else {
        Err(SourceError::NoContainerImage { path: path.to_owned() })
    }
}

fn member_names(path: &Path) -> io::Result<Vec<String>> {
    let mut archive = tar::Archive::new(File::open(path)?);
    archive.entries_with_seek()?.map(|entry| Ok(entry?.path()?.to_string_lossy().into_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn archive(members: &[&str]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut builder = tar::Builder::new(&file);
        for name in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(0);
            builder.append_data(&mut header, name, io::empty()).unwrap();
        }
        builder.finish().unwrap();
        drop(builder);
        file
    }

    #[test]
    fn archives_are_told_apart_by_their_members() {
        let check = |members: &[&str], expected: &str| {
            let file = archive(members);
            assert_eq!(archive_transport(file.path()).unwrap(), expected);
        };
        check(&["blobs/x", "manifest.json", "repositories"], "docker-archive");
        check(&["oci-layout", "index.json"], "oci-archive");
        check(&["oci-layout", "index.json", "manifest.json"], "docker-archive");
        let root = archive(&["etc/passwd"]);
        let error = archive_transport(root.path()).unwrap_err().to_string();
        assert!(error.contains("hint: if it is a root file system, use type = \"tar\""), "{error}");
        let text = tempfile::NamedTempFile::new().unwrap();
        fs::write(text.path(), "no archive, but longer than nothing at all").unwrap();
        assert!(archive_transport(text.path()).is_err());
    }

    #[test]
    fn skopeo_gets_transport_path_and_tag() {
        let tag = Some("9".to_owned());
        let layout = OciImage::Layout { path: "/images/base".into(), tag };
        assert_eq!(reference(&layout).unwrap(), "oci:/images/base:9");
        let layout = OciImage::Layout { path: PathBuf::from("/images/base"), tag: None };
        assert_eq!(reference(&layout).unwrap(), "oci:/images/base");
        let image = OciImage::Registry { reference: "registry/hpc/base:9".into(), tls_verify: true };
        assert_eq!(reference(&image).unwrap(), "docker://registry/hpc/base:9");
    }
}
