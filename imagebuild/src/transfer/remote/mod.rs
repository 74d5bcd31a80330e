//! Versions in an object store that speaks S3: `PREFIX/NAME/VERSION/FILE`, the same tree as in a store of ours.
//!
//! A version is there when its manifest is, which is sent last. Each object carries the digest of its artifact as metadata, by
//! which a push knows what need not be sent again; nothing else relies on it. imagebuild is no asynchronous program: what
//! is here runs to its end on the thread that calls it.

mod error;
mod pull;
mod push;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bootspec::ImageRef;
use bootspec::store::MANIFEST;
use futures_util::TryStreamExt;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectMeta, ObjectStore, RetryConfig};
use tokio::runtime::{Builder, Runtime};

use crate::interrupt;

pub use error::RemoteError;
pub use pull::{Wanted, pull};
pub use push::{Pushed, push};

const SCHEME: &str = "s3://";
/// What is sent in one request; and how many such requests are under way at once.
const PART_BYTES: u64 = 8 << 20;
const REQUESTS: usize = 4;
/// How long a server may be silent, also while a part is sent: that is 70 KB/s. As long as bytes come, an artifact may take its time.
const READ_TIMEOUT: Duration = Duration::from_secs(120);
/// A request that failed is made again for so long at most.
const RETRY_TIMEOUT: Duration = Duration::from_secs(120);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A server that is not there is tried again for some three seconds.
const RETRIES: usize = 4;
const INTERRUPT_CHECK: Duration = Duration::from_millis(200);

/// Where images are: `s3://BUCKET` or `s3://BUCKET/PREFIX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteUrl {
    bucket: String,
    /// Without slashes at its ends.
    prefix: String,
}

impl FromStr for RemoteUrl {
    type Err = RemoteError;

    fn from_str(text: &str) -> Result<Self, RemoteError> {
        let bad = || RemoteError::Url(text.to_owned());
        let rest = text.strip_prefix(SCHEME).ok_or_else(bad)?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let is_bucket = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        // The library would leave out a slash in front.
        let is_prefix = !prefix.starts_with('/') && Path::parse(prefix).is_ok();
        if bucket.is_empty() || !bucket.chars().all(is_bucket) || !is_prefix {
            return Err(bad());
        }
        Ok(Self { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

impl fmt::Display for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        write!(f, "{SCHEME}{}{slash}{}", self.bucket, self.prefix)
    }
}

/// Images in an object store.
pub struct Remote {
    url: RemoteUrl,
    /// Who is asked, for messages.
    endpoint: String,
    objects: Arc<dyn ObjectStore>,
    runtime: Runtime,
}

impl Remote {
    /// The object store at `url`, with endpoint and credentials out of the `AWS_*` variables. Nothing is asked of it yet.
    pub fn open(url: RemoteUrl) -> Result<Self, RemoteError> {
        let builder = AmazonS3Builder::from_env().with_bucket_name(&url.bucket);
        let set = |key: AmazonS3ConfigKey| builder.get_config_value(&key);
        let endpoint = set(AmazonS3ConfigKey::S3Endpoint).or_else(|| set(AmazonS3ConfigKey::Endpoint));
        if !has_credentials(&builder) {
            return Err(RemoteError::NoCredentials(url.to_string()));
        }
        let is_plain = endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
        let options = ClientOptions::new()
            .with_timeout_disabled()
            .with_read_timeout(READ_TIMEOUT)
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_allow_http(is_plain);
        let retry = RetryConfig {
            max_retries: RETRIES,
            retry_timeout: RETRY_TIMEOUT,
            backoff: BackoffConfig { init_backoff: Duration::from_millis(200), ..BackoffConfig::default() },
        };
        // reqwest asks for the cryptography of TLS by this. It fails if there is one already, which is as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let objects = builder.with_client_options(options).with_retry(retry).build();
        let objects = objects.map_err(|source| RemoteError::Settings { url: url.to_string(), source })?;
        Self::new(url, endpoint.unwrap_or_else(|| "Amazon S3".to_owned()), Arc::new(objects))
    }

    fn new(url: RemoteUrl, endpoint: String, objects: Arc<dyn ObjectStore>) -> Result<Self, RemoteError> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(RemoteError::Runtime)?;
        Ok(Self { url, endpoint, objects, runtime })
    }

    /// The versions that are there, sorted.
    pub fn list(&self) -> Result<Vec<ImageRef>, RemoteError> {
        self.runtime.block_on(self.versions())
    }

    async fn versions(&self) -> Result<Vec<ImageRef>, RemoteError> {
        let prefix = Path::from(self.url.prefix.as_str());
        let image_of = |object: &ObjectMeta| {
            let parts: Vec<_> = object.location.prefix_match(&prefix)?.collect();
            match &parts[..] {
                [name, version, file] if file.as_ref() == MANIFEST => Some(ImageRef {
                    name: name.as_ref().parse().ok()?,
                    version: version.as_ref().parse().ok()?,
                }),
                _ => None,
            }
        };
        let mut versions: Vec<_> = self.objects_below(&prefix).await?.iter().filter_map(image_of).collect();
        versions.sort();
        Ok(versions)
    }

    /// The files of a version that are there, with their sizes. Its manifest may not be among them.
    async fn files(&self, image: &ImageRef) -> Result<BTreeMap<String, u64>, RemoteError> {
        let objects = self.objects_below(&self.path(image, None)).await?;
        let file = |object: ObjectMeta| Some((object.location.filename()?.to_owned(), object.size));
        Ok(objects.into_iter().filter_map(file).collect())
    }

    async fn objects_below(&self, prefix: &Path) -> Result<Vec<ObjectMeta>, RemoteError> {
        let objects = self.objects.list(Some(prefix)).try_collect::<Vec<_>>();
        match or_interrupted(objects).await? {
            // What lies below a prefix may be nothing, but not absent: that is the bucket.
            Err(error) if error::is_missing_bucket(&error) => Err(RemoteError::NoBucket {
                bucket: self.url.bucket.clone(),
                endpoint: self.endpoint.clone(),
            }),
            result => result.map_err(|error| self.failed("list", &self.url.to_string(), &error)),
        }
    }

    /// Where a version is, or one of its files.
    fn path(&self, image: &ImageRef, file: Option<&str>) -> Path {
        let parts = [self.url.prefix.as_str(), image.name.as_str(), image.version.as_str()];
        let parts = parts.into_iter().chain(file).filter(|part| !part.is_empty());
        Path::from(parts.collect::<Vec<_>>().join("/"))
    }

    fn failed(&self, action: &'static str, what: &str, error: &object_store::Error) -> RemoteError {
        RemoteError::of(action, what, &self.endpoint, error)
    }
}

/// Whether one of the ways is set up by which an AWS client gets credentials from its environment. Without any, the
/// library would ask a service that only machines at Amazon have, and wait for it.
fn has_credentials(builder: &AmazonS3Builder) -> bool {
    use AmazonS3ConfigKey as Key;
    let set = |key: Key| builder.get_config_value(&key).is_some_and(|value| !value.is_empty());
    let pair = set(Key::AccessKeyId) && set(Key::SecretAccessKey);
    let unsigned = builder.get_config_value(&Key::SkipSignature).is_some_and(|value| value == "true");
    let services = [
        Key::WebIdentityTokenFile,
        Key::ContainerCredentialsRelativeUri,
        Key::ContainerCredentialsFullUri,
        Key::MetadataEndpoint,
    ];
    pair || unsigned || services.into_iter().any(set)
}

/// Does `work`, unless the user wants to stop.
async fn or_interrupted<T>(work: impl Future<Output = T>) -> Result<T, RemoteError> {
    let stop = async {
        while !interrupt::requested() {
            tokio::time::sleep(INTERRUPT_CHECK).await;
        }
    };
    tokio::select! {
        biased;
        done = work => Ok(done),
        () = stop => Err(RemoteError::Interrupted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Progress;
    use crate::store::Store;
    use crate::testing;
    use crate::transfer::{Terms, TransferError};
    use object_store::memory::InMemory;
    use object_store::{ObjectStoreExt, PutPayload};

    /// An empty object store in memory.
    fn remote() -> Remote {
        let url = "s3://images/lab".parse().unwrap();
        Remote::new(url, "memory".to_owned(), Arc::new(InMemory::new())).unwrap()
    }

    /// The names of the artifacts that a push sends.
    fn push_sample(store: &Store, remote: &Remote) -> Result<Vec<String>, TransferError> {
        let step = Progress::quiet().step("push");
        let pushed = push(store, &testing::manifest().image, remote, false, &step)?;
        Ok(pushed.sent.iter().map(ToString::to_string).collect())
    }

    fn pull_sample(store: &Store, remote: &Remote, terms: Terms<'_>) -> Result<bool, TransferError> {
        let step = Progress::quiet().step("pull");
        Ok(pull(store, remote, &"compute".parse().unwrap(), terms, &step)?.reused)
    }

    impl Remote {
        fn put(&self, file: &str, contents: &'static str) {
            let path = self.path(&testing::manifest().image, Some(file));
            self.runtime
                .block_on(self.objects.put(&path, PutPayload::from_static(contents.as_bytes())))
                .unwrap();
        }

        fn delete(&self, file: &str) {
            let path = self.path(&testing::manifest().image, Some(file));
            self.runtime.block_on(self.objects.delete(&path)).unwrap();
        }
    }

    #[test]
    fn what_is_there_is_not_sent_again_and_the_manifest_makes_the_version() {
        let dir = tempfile::tempdir().unwrap();
        let (store, remote) = (Store::new(dir.path()), remote());
        testing::publish(&store, None);
        let all = ["initramfs-fetched.img", "rootfs.squashfs", "vmlinuz"];
        assert_eq!(push_sample(&store, &remote).unwrap(), all);
        assert_eq!(push_sample(&store, &remote).unwrap(), [""; 0]);
        remote.delete(MANIFEST);
        assert!(remote.list().unwrap().is_empty(), "a version without a manifest is none");
        // Of the same size, and without a digest.
        remote.put("vmlinuz", "kernal");
        assert_eq!(push_sample(&store, &remote).unwrap(), ["vmlinuz"]);
        assert_eq!(remote.list().unwrap(), [testing::manifest().image]);
        remote.put(MANIFEST, "another");
        let error = push_sample(&store, &remote).unwrap_err().to_string();
        assert!(error.contains("there is another compute/1 at s3://images/lab"), "{error}");
    }

    #[test]
    fn a_signature_that_was_made_later_is_sent_alone() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (store, remote) = (Store::new(dir.path().join("store")), remote());
        let image = testing::publish(&store, None);
        push_sample(&store, &remote).unwrap();
        let (signer, keys) = testing::keys(dir.path());
        let here = Store::new(other.path());
        let terms = Terms { keys: &keys, ..Terms::default() };
        assert!(matches!(pull_sample(&here, &remote, terms), Err(TransferError::Untrusted { .. })));
        let signature = signer.sign(testing::manifest().to_json().as_bytes(), "").unwrap();
        std::fs::write(store.dir(&image).join("manifest.json.minisig"), signature).unwrap();
        assert_eq!(push_sample(&store, &remote).unwrap(), [""; 0]);
        assert!(!pull_sample(&here, &remote, terms).unwrap());
        assert_eq!(testing::files(&here.dir(&image)), testing::files(&store.dir(&image)));
        assert!(pull_sample(&here, &remote, terms).unwrap(), "it is there already");
    }

    #[test]
    fn damage_stays_where_it_is() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (store, here) = (Store::new(dir.path()), Store::new(other.path()));
        let image = testing::publish(&store, None);
        let kernel = store.dir(&image).join("vmlinuz");
        std::fs::write(&kernel, "kernal").unwrap();
        let error = push_sample(&store, &remote()).unwrap_err().to_string();
        assert!(error.contains("vmlinuz of compute/1 has SHA-256"), "{error}");
        std::fs::write(&kernel, "kernel").unwrap();

        let remote = remote();
        push_sample(&store, &remote).unwrap();
        for (contents, problem) in [("kernal", "has SHA-256"), ("kernel2", "has 7 bytes, expected 6")] {
            remote.put("vmlinuz", contents);
            let error = pull_sample(&here, &remote, Terms::default()).unwrap_err().to_string();
            assert!(error.contains(problem) && error.contains("s3://images/lab/compute/1"), "{error}");
        }
        remote.delete("vmlinuz");
        assert!(matches!(pull_sample(&here, &remote, Terms::default()), Err(TransferError::Missing { .. })));
        assert!(std::fs::read_dir(other.path().join("compute")).unwrap().next().is_none());
    }

    #[test]
    fn a_manifest_in_the_place_of_another_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (store, remote) = (Store::new(dir.path()), remote());
        let json = testing::manifest().to_json().replace("compute/1", "compute/2");
        remote.put(MANIFEST, json.leak());
        let error = pull_sample(&store, &remote, Terms::default()).unwrap_err().to_string();
        assert!(error.contains("says that it is of compute/2"), "{error}");
    }

    #[test]
    fn urls_round_trip_and_others_are_refused() {
        for text in ["s3://images", "s3://images/lab", "s3://images/lab/one"] {
            assert_eq!(text.parse::<RemoteUrl>().unwrap().to_string(), text);
        }
        assert_eq!("s3://images/lab/".parse::<RemoteUrl>().unwrap().to_string(), "s3://images/lab");
        for text in
            ["images", "s3://", "s3:///x", "http://host/images", "s3://a b", "s3://b//x", "s3://b/../x"]
        {
            let error = text.parse::<RemoteUrl>().unwrap_err().to_string();
            assert!(error.contains("expected s3://BUCKET"), "{text}: {error}");
        }
    }
}
