//! The shipped configuration of Squid, with real Squid, dnf and builds: what one mirror has brought, no other is asked for.
//! Mirrors are web servers that log what they are asked for, in the lab's private network.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bootlab::deadline::wait_until;
use bootlab::netns::{NetNs, SERVER_ADDRESS, WITH_OWN_SHM};
use bootlab::places::{RunDir, program};
use bootlab::rpm_repo;
use imagebuild::digest::digest;

/// From the start of a server to its first answer, on an idle machine.
const START: Duration = Duration::from_secs(5);

/// Where Squid's package has its helpers: on Debian, and on EL.
const HELPERS: [&str; 2] = ["/usr/lib/squid/storeid_file_rewrite", "/usr/lib64/squid/storeid_file_rewrite"];

/// Paths as two mirrors have them, of one distribution and of another.
const TREES: [&str; 2] = ["pub/rocky/9", "mirrors/rocky-linux/9"];
const DEBIAN_TREES: [&str; 2] = ["debian", "pub/debian"];
/// A Debian archive's suites, each with its version of a kernel that is none.
const SUITES: [(&str, &str); 2] = [("bookworm", "6.1.0"), ("bookworm-security", "6.1.9")];

/// A web server with a copy of the repository below a path of its own.
struct Mirror {
    address: String,
    dir: PathBuf,
    tree: &'static str,
    log: PathBuf,
}

impl Mirror {
    /// The `number`th, ready to answer. The server ends with the network.
    fn start(netns: &NetNs, run: &Path, repository: &Path, number: usize) -> Result<Self> {
        let mirror = Self {
            address: format!("10.0.0.{}", number + 1),
            dir: run.join(format!("mirror-{number}")),
            tree: TREES[number],
            log: run.join(format!("mirror-{number}.log")),
        };
        let packages = mirror.packages();
        fs::create_dir_all(&packages)?;
        symlink(repository.join("repo/repodata"), packages.with_file_name("repodata"))?;
        for package in fs::read_dir(repository.join("repo/Packages"))? {
            let package = package?;
            symlink(package.path(), packages.join(package.file_name()))?;
        }
        run_to_end(netns.command("ip").args(["address", "add", &mirror.address, "dev", "lo"]))?;
        let log = File::create(&mirror.log)?;
        let mut server = netns.command("python3");
        server.args(["-m", "http.server", "80", "--bind", &mirror.address, "--directory"]).arg(&mirror.dir);
        server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
        wait_for_port(netns, &format!("{}:80", mirror.address))?;
        Ok(mirror)
    }

    fn packages(&self) -> PathBuf {
        self.dir.join(self.tree).join("Packages")
    }

    fn url(&self) -> String {
        format!("http://{}/{}/", self.address, self.tree)
    }

    /// How often it was asked for a file whose path ends so.
    fn requests(&self, suffix: &str) -> Result<usize> {
        let log = fs::read_to_string(&self.log)?;
        Ok(log.lines().filter(|line| line.contains(&format!("{suffix} HTTP/1."))).count())
    }

    /// Changes one byte of a package, and returns its file name.
    fn damage(&self, package: &str) -> Result<String> {
        let is_it = |name: &String| name.strip_prefix(package).is_some_and(|rest| rest.starts_with("-6"));
        let names = fs::read_dir(self.packages())?.flatten().map(|entry| entry.file_name());
        let name = names.filter_map(|name| name.into_string().ok()).find(is_it).context("no such package")?;
        let path = self.packages().join(&name);
        let mut content = fs::read(&path)?;
        let middle = content.len() / 2;
        content[middle] ^= 1;
        fs::remove_file(&path)?;
        fs::write(&path, content)?;
        Ok(name)
    }
}

/// Makes an archive of Debian packages in `archive`, without signatures.
fn make_debian(archive: &Path) -> Result<()> {
    for (suite, version) in SUITES {
        let pool = format!("pool/main/k/kernel-core_{version}_amd64.deb");
        let deb = archive.join(&pool);
        fs::create_dir_all(deb.parent().context("it is in a directory")?)?;
        let control = format!(
            "Package: kernel-core\nVersion: {version}\nArchitecture: amd64\nMaintainer: nobody\nDescription: test\n"
        );
        let content = tempfile::tempdir()?;
        for (path, text) in [
            ("DEBIAN/control".to_owned(), control.as_str()),
            (format!("boot/vmlinuz-{version}"), "no kernel\n"),
            (format!("lib/modules/{version}/kernel/none"), ""),
            (format!("lib/modules/{version}/modules.dep"), ""),
        ] {
            let path = content.path().join(path);
            fs::create_dir_all(path.parent().context("it is in a directory")?)?;
            fs::write(path, text)?;
        }
        run_to_end(Command::new("dpkg-deb").arg("--build").arg(content.path()).arg(&deb))?;
        let (size_bytes, sha256) = digest(File::open(&deb)?)?;
        let dist = archive.join("dists").join(suite);
        fs::create_dir_all(dist.join("main/binary-amd64"))?;
        let packages = format!("{control}Filename: {pool}\nSize: {size_bytes}\nSHA256: {sha256}\n\n");
        fs::write(dist.join("main/binary-amd64/Packages"), &packages)?;
        let (size_bytes, sha256) = digest(packages.as_bytes())?;
        let release = format!(
            "Suite: {suite}\nCodename: {suite}\nArchitectures: amd64\nComponents: main\n\
             SHA256:\n {sha256} {size_bytes} main/binary-amd64/Packages\n"
        );
        fs::write(dist.join("Release"), release)?;
    }
    Ok(())
}

/// The network with Squid in it, which ends with the network.
struct Site {
    netns: NetNs,
    run: RunDir,
    repository: PathBuf,
    mirrors: Vec<Mirror>,
}

impl Site {
    fn start(name: &str, mirrors: usize) -> Result<Self> {
        let repository = rpm_repo::full()?;
        let (netns, run) = (NetNs::create()?, RunDir::create(name)?);
        let mirrors: Result<Vec<_>> =
            (0..mirrors).map(|number| Mirror::start(&netns, run.path(), &repository, number)).collect();
        let site = Self { netns, run, repository, mirrors: mirrors? };
        site.start_squid()?;
        Ok(site)
    }

    /// Squid, as the shipped files configure it, with this site's paths and mirrors in them.
    fn start_squid(&self) -> Result<()> {
        // It drops root.
        let state = self.run.make_state_dir()?;
        let config = self.run.path().join("squid.conf");
        fs::write(&config, self.squid_config(&state)?)?;
        let squid = |option: &str| {
            let mut squid = self.netns.command_by(&WITH_OWN_SHM, "squid");
            squid.args(["-N", option, "-f"]).arg(&config).stdin(Stdio::null());
            squid
        };
        run_to_end(&mut squid("-z"))?;
        let output = File::create(self.run.path().join("squid.log"))?;
        squid("-d1").stdout(output.try_clone()?).stderr(output).spawn()?;
        wait_for_port(&self.netns, &format!("{SERVER_ADDRESS}:3128"))
    }

    fn squid_config(&self, state: &Path) -> Result<String> {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rootfs-recipes/squid").canonicalize()?;
        let mut config = fs::read_to_string(shipped.join("squid.conf"))?;
        let mut replace = |shipped: &str, own: &str| -> Result<()> {
            ensure!(config.contains(shipped), "squid.conf has no {shipped}");
            config = config.replace(shipped, own);
            Ok(())
        };
        replace(HELPERS[0], helper()?)?;
        replace("/etc/squid/storeid.rules", &shipped.join("storeid.rules").display().to_string())?;
        replace("/var/spool/squid 50000", &format!("{}/cache 500", state.display()))?;
        replace("mirror.example.org", &self.mirrors[0].address)?;
        // A second mirror in the reverse port, written like the first.
        let [first, second] = [0, 1].map(|number| &self.mirrors[number]);
        let begin = config.find("cache_peer ").context("squid.conf has no mirror")?;
        let end = begin + config[begin..].find("\n\n").context("the mirror has no end")?;
        let block = config[begin..end]
            .replace(&first.address, &second.address)
            .replace("pub/rocky", "mirrors/rocky-linux")
            .replace("name=rocky", "name=other")
            .replace("acl rocky", "acl other")
            .replace("access rocky", "access other")
            .replace("reverse rocky", "reverse other");
        config.insert_str(end, &format!("\n{block}"));
        let state = state.display();
        Ok(format!(
            "{config}\npid_filename none\ncache_log {state}/cache.log\naccess_log stdio:{state}/access.log\n"
        ))
    }

    /// The source of a recipe whose kernel comes from the repository at `url`.
    fn dnf(&self, url: &str, key: &str) -> String {
        let gpgkey = self.repository.join("RPM-GPG-KEY-test");
        format!(
            "type = \"dnf\"\nreleasever = \"9\"\n{key}\n\n[[source.from.repository]]\nname = \"test\"\n\
             baseurl = \"{url}\"\ngpgkeys = [\"{}\"]\nrepo_gpgcheck = true\n",
            gpgkey.display()
        )
    }

    /// Builds a failsafe image whose kernel is from this source, with nothing of other builds.
    fn build(&self, name: &str, source: &str, options: &[&str]) -> Result<Output> {
        let recipe = self.run.path().join(format!("{name}.toml"));
        let text = format!(
            "name = \"{name}\"\nkernel.package = \"kernel-core\"\n\n[source]\ntype = \"busybox\"\n\n[source.from]\n{source}"
        );
        fs::write(&recipe, text)?;
        let dir = |kind: &str| self.run.path().join(format!("{kind}-{name}"));
        let mut build = self.netns.command(program("imagebuild")?);
        build.arg("build").arg(&recipe).args(options);
        build.arg("--store").arg(dir("store")).arg("--cache").arg(dir("cache"));
        // Nobody is there: a build that heeds the environment though a proxy is named fails.
        let output = build.env("http_proxy", "http://10.9.9.9:1").env("no_proxy", "*").output()?;
        for kind in ["store", "cache"] {
            fs::remove_dir_all(dir(kind))?;
        }
        Ok(output)
    }

    fn purge(&self, url: &str) -> Result<()> {
        let mut curl = self.netns.command("curl");
        run_to_end(curl.args(["-sSf", "-X", "PURGE", "-x", "http://127.0.0.1:3128", url]))
    }
}

fn helper() -> Result<&'static str> {
    HELPERS
        .into_iter()
        .find(|helper| Path::new(helper).exists())
        .context("Squid's package has no StoreID helper")
}

fn run_to_end(command: &mut Command) -> Result<()> {
    check(&command.output()?).with_context(|| format!("{command:?}"))
}

fn check(output: &Output) -> Result<()> {
    ensure!(output.status.success(), "failed\n{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn wait_for_port(netns: &NetNs, address: &str) -> Result<()> {
    let connect = || netns.inside(|| std::net::TcpStream::connect(address));
    let answers = wait_until(START, || matches!(connect(), Ok(Ok(_))));
    ensure!(
        answers,
        "nothing answers at {address}: {:?}",
        connect()?.err().map(|error: io::Error| error.kind())
    );
    Ok(())
}

/// The first mirror has given packages, and the second its metadata alone.
fn check_requests(mirrors: &[Mirror]) -> Result<()> {
    let [first, second] = &mirrors[..2] else { unreachable!("two were started") };
    ensure!(first.requests(".rpm")? > 1, "the first mirror was asked for {}", first.requests(".rpm")?);
    for metadata in ["repomd.xml", "primary.xml.gz"] {
        ensure!(second.requests(metadata)? > 0, "the second mirror was not asked for {metadata}");
    }
    ensure!(second.requests(".rpm")? == 0, "the second mirror was asked for {}", second.requests(".rpm")?);
    Ok(())
}

const PROXY: &str = "http://192.168.0.1:3128";

#[test]
fn a_package_is_named_by_its_distribution_and_metadata_by_its_url() -> Result<()> {
    let cases = [
        (
            "m.org/pub/rocky/9.4/BaseOS/x86_64/os/Packages/b/bash-5.1-1.el9.x86_64.rpm",
            Some("rocky/9.4/BaseOS"),
        ),
        (
            "m.org/rocky-linux/9.4/BaseOS/x86_64/os/Packages/b/bash-5.1-1.el9.x86_64.rpm",
            Some("rocky/9.4/BaseOS"),
        ),
        ("m.org/almalinux/9.4/BaseOS/x86_64/os/Packages/bash-5.1-1.el9.x86_64.rpm", Some("almalinux/9.4")),
        ("m.org/fedora/epel/9/Everything/x86_64/Packages/m/munge-1-1.x86_64.rpm", Some("epel/9/")),
        ("deb.debian.org/debian/pool/main/b/bash/bash_5.2.15-2%2bb7_amd64.deb", Some("debian/pool/main/b/")),
        ("m.org/pub/debian-security/pool/updates/main/l/linux/x_1_all.deb", Some("debian-security/pool/")),
        ("m.org/pub/rocky/9.4/BaseOS/x86_64/os/repodata/repomd.xml", None),
        ("deb.debian.org/debian/dists/bookworm/InRelease", None),
        ("m.org/private/rocky9/x-1-1.noarch.rpm", None),
    ];
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rootfs-recipes/squid/storeid.rules");
    let mut helper = Command::new(helper()?)
        .arg(rules)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let asked: String = cases.iter().map(|(url, _)| format!("http://{url} 10.0.0.7/- - GET\n")).collect();
    helper.stdin.take().context("it was piped")?.write_all(asked.as_bytes())?;
    let output = helper.wait_with_output()?;
    ensure!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let answers = String::from_utf8(output.stdout)?;
    ensure!(answers.lines().count() == cases.len(), "{answers}");
    for ((url, expected), answer) in cases.iter().zip(answers.lines()) {
        let right = match expected {
            Some(name) => answer.starts_with(&format!("OK store-id=http://packages.squid.internal/{name}")),
            None => answer == "ERR",
        };
        ensure!(right, "{url}: {answer}");
    }
    Ok(())
}

#[test]
fn by_a_proxy_a_package_comes_from_one_mirror_and_metadata_from_each() -> Result<()> {
    let site = Site::start("cache-forward", 2)?;
    let key = format!("proxy = \"{PROXY}\"");
    check(&site.build("first", &site.dnf(&site.mirrors[0].url(), &key), &[])?)?;
    let other = "proxy = \"http://10.9.9.9:1\"";
    check(&site.build("second", &site.dnf(&site.mirrors[1].url(), other), &["--proxy", PROXY])?)?;
    check_requests(&site.mirrors)
}

/// The lines of several suites are all in use: the kernel is the newer one.
#[test]
fn by_a_proxy_apt_gets_a_package_from_one_mirror_and_lists_of_all_suites_from_each() -> Result<()> {
    let site = Site::start("cache-debian", 2)?;
    let archive = site.run.path().join("archive");
    make_debian(&archive)?;
    for (number, name) in ["first", "second"].into_iter().enumerate() {
        let mirror = &site.mirrors[number];
        let tree = mirror.dir.join(DEBIAN_TREES[number]);
        fs::create_dir_all(tree.parent().context("it is in the mirror")?)?;
        symlink(&archive, tree)?;
        let url = format!("http://{}/{}", mirror.address, DEBIAN_TREES[number]);
        let lines = SUITES.map(|(suite, _)| format!("\"deb [trusted=yes] {url} {suite} main\""));
        let source = format!(
            "type = \"mmdebstrap\"\nsuite = \"bookworm\"\nproxy = \"{PROXY}\"\nmirrors = [{}]\n",
            lines.join(", ")
        );
        check(&site.build(name, &source, &[])?)?;
    }
    let [first, second] = &site.mirrors[..] else { unreachable!("two were started") };
    ensure!(first.requests("kernel-core_6.1.9_amd64.deb")? == 1, "the newer package was not fetched once");
    ensure!(first.requests(".deb")? == 1 && second.requests(".deb")? == 0, "more packages were fetched");
    for (suite, _) in SUITES {
        let release = format!("dists/{suite}/Release");
        ensure!(second.requests(&release)? > 0, "the second mirror was not asked for {release}");
    }
    Ok(())
}

#[test]
fn by_a_server_in_front_a_package_comes_from_one_mirror_and_metadata_from_each() -> Result<()> {
    let site = Site::start("cache-reverse", 2)?;
    for (number, name) in ["first", "second"].into_iter().enumerate() {
        let url = format!("http://{SERVER_ADDRESS}:8080/{}/", site.mirrors[number].tree);
        check(&site.build(name, &site.dnf(&url, "proxy = \"none\""), &[])?)?;
    }
    check_requests(&site.mirrors)
}

#[test]
fn a_damaged_package_in_the_cache_fails_builds_until_it_is_purged() -> Result<()> {
    let site = Site::start("cache-damaged", 2)?;
    let name = site.mirrors[0].damage("kernel-core")?;
    let proxy = ["--proxy", PROXY];
    let refused = site.build("first", &site.dnf(&site.mirrors[0].url(), ""), &proxy)?;
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && message.contains("kernel-core"), "{message}");
    let refused = site.build("second", &site.dnf(&site.mirrors[1].url(), ""), &proxy)?;
    ensure!(!refused.status.success(), "what the first mirror brought was not kept");
    ensure!(site.mirrors[1].requests(&name)? == 0, "the second mirror was asked");

    site.purge(&format!("http://packages.squid.internal/rocky/9/Packages/{name}"))?;
    check(&site.build("second", &site.dnf(&site.mirrors[1].url(), ""), &proxy)?)?;
    ensure!(site.mirrors[1].requests(&name)? == 1, "{}", site.mirrors[1].requests(&name)?);
    Ok(())
}
