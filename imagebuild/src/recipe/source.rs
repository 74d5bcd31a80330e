//! Where a root file system comes from: packages of a distribution, or a root that exists already.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::proxy::Proxy;

/// Where a root file system comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Debian and its relatives.
    Mmdebstrap(Mmdebstrap),
    /// Distributions made of RPM packages.
    Dnf(Dnf),
    /// No root at all: a kernel for the failsafe shell or for discovery. The source is where the kernel package comes from.
    Busybox(PackageSource),
    /// A root that exists already. Packages are added by its own package manager.
    Existing(Existing),
}

/// A root that exists already, and how it and what is added to it are fetched.
#[derive(Clone, Debug)]
pub struct Existing {
    /// Where it is.
    pub root: ExistingRoot,
    /// By what its packages, and an image in a registry, are fetched. Without one, the environment says.
    pub proxy: Option<Proxy>,
}

/// Where a root that exists already comes from.
#[derive(Clone, Debug)]
pub enum ExistingRoot {
    /// A tar archive of it, compressed or not: an absolute path.
    Tar(PathBuf),
    /// A directory on the build host, absolute.
    Directory(PathBuf),
    /// Another image of the store: NAME for its current version, or NAME/VERSION.
    Image(String),
    /// A container image.
    Oci(OciImage),
}

/// A container image, and where it is.
#[derive(Clone, Debug)]
pub enum OciImage {
    /// A tar archive as `docker save`, `podman save` or skopeo write it: an absolute path.
    Archive {
        /// The file.
        path: PathBuf,
        /// Which of its images, if it holds several.
        tag: Option<String>,
    },
    /// A directory in the OCI image layout, absolute.
    Layout {
        /// The directory.
        path: PathBuf,
        /// Which of its images, if it holds several.
        tag: Option<String>,
    },
    /// In a registry.
    Registry {
        /// Host, repository and tag or digest: `registry.example.org/hpc/base:9`.
        reference: String,
        /// Whether the registry must be reached by HTTPS with a certificate that the build host trusts.
        tls_verify: bool,
    },
}

/// A source of packages.
#[derive(Clone, Debug)]
pub enum PackageSource {
    /// See [`Source::Mmdebstrap`].
    Mmdebstrap(Mmdebstrap),
    /// See [`Source::Dnf`].
    Dnf(Dnf),
}

/// What mmdebstrap is to install from.
#[derive(Clone, Debug)]
pub struct Mmdebstrap {
    /// Release: `bookworm`.
    pub suite: String,
    /// Mirrors or sources.list lines; empty means mmdebstrap's own choice for the suite.
    pub mirrors: Vec<String>,
    /// Archive components; empty means `main`.
    pub components: Vec<String>,
    /// Keyrings that sign the archive, absolute; empty means apt's own.
    pub keyrings: Vec<PathBuf>,
    /// Which packages are installed unasked.
    pub variant: String,
    /// How packages are fetched; as the environment says if there is none.
    pub proxy: Option<Proxy>,
}

/// What dnf is to install from.
#[derive(Clone, Debug)]
pub struct Dnf {
    /// Value of `$releasever`.
    pub releasever: String,
    /// The repositories; no other is used.
    pub repositories: Vec<Repository>,
    /// `platform:el8`, where modules matter.
    pub module_platform_id: Option<String>,
    /// Module streams to enable: `nodejs:20`.
    pub modules: Vec<String>,
    /// Groups to install, by their ids.
    pub groups: Vec<String>,
    /// Variables of URLs, by their names without `$`.
    pub vars: BTreeMap<String, String>,
    /// Whether recommended packages are installed.
    pub weak_deps: bool,
    /// Packages never to install.
    pub excludes: Vec<String>,
    /// How packages are fetched; as the environment says if no repository has a proxy either.
    pub proxy: Option<Proxy>,
}

/// An RPM repository.
#[derive(Clone, Debug)]
pub struct Repository {
    /// Its id.
    pub name: String,
    /// Where it is.
    pub location: Location,
    /// URLs of the keys that sign it.
    pub gpgkeys: Vec<String>,
    /// Whether packages must be signed by one of the keys.
    pub gpgcheck: bool,
    /// Whether the repository's metadata must be.
    pub repo_gpgcheck: bool,
    /// How its files are fetched, in place of the source's proxy.
    pub proxy: Option<Proxy>,
    /// Packages of a repository with a lower number are preferred, 99 if there is none.
    pub priority: Option<u32>,
    /// Packages that are not taken from it.
    pub excludes: Vec<String>,
    /// The only packages that are taken from it, if there are any.
    pub includes: Vec<String>,
    /// Whether its packages stand beside those of enabled module streams.
    pub module_hotfixes: bool,
}

/// How an RPM repository is found.
#[derive(Clone, Debug)]
pub enum Location {
    /// At this URL.
    BaseUrl(String),
    /// At one of the mirrors in this metalink document.
    Metalink(String),
    /// At one of the mirrors in this list.
    MirrorList(String),
}
